"""The student learns while answers travel: sooner done, and to the last bit the same."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import build_release_mode
from fedkd.client.sessions.agent import Agent
from fedkd.experiment import parse_experiment
from fedkd.loop import PAUSE, Distillation, Distilled, Plan, Progress, distil, drive
from fedkd.methods import Method, cudfkd, make
from fedkd.models import InProcess, ModuleTeacher
from fedkd.privacy import Policy
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Card, PullBack, Refusal, Reply, Request, Signal
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.server.hub.hub import Hub
from fedkd.server.remote_institutions import RemoteInstitutions
from fedkd.server.run.checkpoint import Checkpoint

SHAPE, K, SOON = (1, 8, 8), 4, 20.0
OPEN = Policy(frozenset({Signal.LOGITS, Signal.BN_GAP}), pull_back=True)
PLAN = Plan(budget=96, batch=16, steps=60, student_batch=16)
METHODS = [
    cudfkd(),
    cudfkd("pull_back", latent=8),
    cudfkd("pull_back", latent=8, warm_up=0.4, generated=0.6, evolved=0.5),
    cudfkd("finite_differences", bn_weight=0.0, latent=8),
    make("dip_kd", {}),
]


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(54, K)),
        )


AT_HAND = InProcess({name: network(seed) for seed, name in enumerate("ab")}, SHAPE, K)


def parts(method: Method, overlap: bool, checkpoint: Checkpoint | None = None) -> Ingredients:
    return Ingredients(
        *(network(9), method, PLAN, build_priors("pink", "noise")),
        checkpoint=checkpoint,
        overlap=overlap,
    )


def left(run: Ingredients, events: list[Progress]) -> tuple[list[bytes], list[tuple[str, object]]]:
    """Every bit of the student, and all events."""
    weights = [t.numpy().tobytes() for t in run.student.state_dict().values()]
    return weights, [(progress.kind, progress.facts) for progress in events]


@contextmanager
def slow(pause: float) -> Iterator[tuple[Hub, tuple[Card, ...]]]:
    """A hub, and two institutions in threads that think for so many seconds."""
    with Hub("token") as hub:
        agents = []
        for seed, name in enumerate("ab"):
            card = Card(name, K, SHAPE, OPEN.signals, True)
            gate = ReleaseGate(
                OPEN, build_release_mode(OPEN, ModuleTeacher(network(seed), K), None), card
            )

            def answer(request: Ask | PullBack, gate: ReleaseGate = gate) -> Reply | Refusal:
                time.sleep(pause)
                return gate.answer(request)

            agents.append(Agent(hub.address, "token", card, answer))
        threads = [threading.Thread(target=agent.serve) for agent in agents]
        for thread in threads:
            thread.start()
        try:
            yield hub, hub.wait_for(2, SOON)
        finally:
            for agent in agents:
                agent.close()
            for thread in threads:
                thread.join(SOON)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.name}-{m.gradient.name}")
def test_over_a_hub_with_slow_institutions_overlap_changes_no_bit(method: Method) -> None:
    found = []
    with slow(0.01) as (hub, cards):
        for overlap in (True, False):
            run, events = parts(method, overlap), list[Progress]()
            participants = RemoteInstitutions(hub, run, cards, SOON)
            Coordinator(run, participants.cards, participants.answer, events.append).finish()
            found.append(left(run, events))
    assert found[0] == found[1]
    # A driver that knows nothing of it makes the same student too.
    run, events = parts(method, True), list[Progress]()
    loop = distil(run.student, method, AT_HAND.cards, PLAN, run.priors, watch=events.append)
    drive(loop, AT_HAND.answer)
    assert left(run, events) == found[0]


def test_the_student_learns_while_a_question_is_on_its_way() -> None:
    learned, before = threading.Event(), list[bool]()

    def answer(request: Request) -> tuple[Answers, dict[str, str]]:
        if isinstance(request, Ask):
            before.append(learned.wait(SOON if before else 0.0))
            learned.clear()
        return AT_HAND.answer(request), {}

    def watch(progress: Progress) -> None:
        if progress.kind == "trained":
            learned.set()

    Coordinator(parts(cudfkd(), True), list(AT_HAND.cards), answer, watch).finish()
    assert before == [False] + [True] * 5, "the first question waits for nothing, all others do"


def test_without_overlap_nobody_learns_before_the_answers_are_there() -> None:
    run, events = parts(cudfkd("pull_back", latent=8), False), list[str]()

    def answer(request: Request) -> tuple[Answers, dict[str, str]]:
        begun = len(events)
        time.sleep(0.01)
        assert len(events) == begun
        return AT_HAND.answer(request), {}

    Coordinator(run, list(AT_HAND.cards), answer, lambda p: events.append(p.kind)).finish()
    assert events.count("trained") == PLAN.steps


def test_steps_are_shared_out_over_all_that_travels() -> None:
    """Nothing is left to wait for: of a question and its pull-back each takes its half."""
    run = Distillation(
        *(network(9), cudfkd("pull_back", latent=8), AT_HAND.cards, PLAN), build_priors("pink")
    )
    taken = list[tuple[str, int]]()

    def put(request: Request) -> Answers:
        if request == PAUSE:
            return {}
        before = run.student_steps
        run.catch_up()
        run.catch_up()  # once more is nothing more
        taken.append((type(request).__name__, run.student_steps - before))
        return AT_HAND.answer(request)

    drive(run.requests(), put)
    assert taken[:6] == [("Ask", 0), ("dict", 3), ("Ask", 3), ("dict", 3), ("Ask", 3), ("dict", 3)]


class _DiedError(Exception):
    """The process is gone."""


@pytest.mark.parametrize("method", METHODS[1:3], ids=["exact", "mixed"])
def test_a_run_may_be_taken_up_again_with_the_other_setting(method: Method, tmp_path: Path) -> None:
    experiment = parse_experiment({"name": "a"})

    def life(saved_run: Checkpoint | None, overlap: bool, until: float) -> Callable[[], Distilled]:
        run = parts(method, overlap, saved_run)
        asked = 0

        def answer(request: Request) -> tuple[Answers, dict[str, str]]:
            nonlocal asked
            asked += 1
            if asked > until:
                raise _DiedError
            return AT_HAND.answer(request), {}

        return Coordinator(run, list(AT_HAND.cards), answer).finish

    whole = life(None, True, 1e9)().student.state_dict()
    for death in (1, 2, 4, 6):
        path = tmp_path / str(death)
        first = Checkpoint.begin(path, experiment, "local", 1e-9)
        with pytest.raises(_DiedError):
            life(first, True, death)()
        first.close()
        second = Checkpoint.resume(path)
        student = life(second, False, 1e9)().student.state_dict()
        second.close()
        assert all(torch.equal(value, student[name]) for name, value in whole.items())


def test_what_goes_wrong_in_transit_is_raised_where_the_loop_is_driven() -> None:
    def answer(request: Request) -> tuple[Answers, dict[str, str]]:
        raise _DiedError

    with pytest.raises(_DiedError):
        Coordinator(parts(cudfkd(), True), list(AT_HAND.cards), answer).finish()


def test_the_stream_of_the_student_is_not_that_of_the_sources() -> None:
    """A student that learns more draws more, and asks about the same images all the same."""
    asked = []
    for steps in (0, 60):
        run = Distillation(
            *(network(9), cudfkd(), AT_HAND.cards, replace(PLAN, steps=steps)),
            build_priors("noise"),
        )
        questions = list[torch.Tensor]()

        def put(request: Request, questions: list[torch.Tensor] = questions) -> Answers:
            assert isinstance(request, Ask)
            questions.append(request.images)
            return AT_HAND.answer(request)

        drive(run.requests(), put)
        asked.append(torch.cat(questions))
    assert torch.equal(*asked)
    one, other = (torch.randint(2**31, (8,), generator=g) for g in (run.rng, run._scheduler.rng))
    assert not torch.equal(one, other)
