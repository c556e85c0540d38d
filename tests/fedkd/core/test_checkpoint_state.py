"""A run that is set down between two rounds and taken up again ends as one that is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fedkd.core.checkpoint_state import VERSION, State, read, write
from fedkd.core.earlier_student import TeacherCards
from fedkd.errors import DataError
from fedkd.loop import PAUSE, Distillation, Distilled, Plan, Progress
from fedkd.methods import Method, cudfkd, make
from fedkd.models import InProcess
from fedkd.procedural import build_priors
from tests.support.grown_runs import earlier_student_for, put_beside

SHAPE, CLASSES = (1, 4, 4), 3
PLAN = Plan(budget=120, batch=12, steps=24, student_batch=8)
PUBLIC = torch.arange(5 * 16, dtype=torch.uint8).view(5, *SHAPE)
POOL = torch.randint(
    *(0, 256, (150, *SHAPE)), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
)
OWN = {"bn_weight": 0.0, "latent": 8, "warm_up": 0.2, "generated": 0.7, "evolved": 0.4}


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, CLASSES))


TEACHERS = InProcess({n: network(i).eval() for i, n in enumerate("ab")}, SHAPE, CLASSES)


def public_of(method: Method) -> torch.Tensor | None:
    """More of them where nothing else is asked."""
    if not method.needs.public_data:
        return None
    return POOL if len(method.sources) == 1 else PUBLIC


class Run:
    """A loop that is driven by hand."""

    def __init__(self, method: Method, plan: Plan, rest: Callable[["Run"], None]) -> None:
        self.events: list[Progress] = []
        self.asked = 0
        earlier = earlier_student_for(method, network(8), tuple(map(str, range(CLASSES))), SHAPE)
        self.put = put_beside(earlier, TEACHERS.answer)
        self.loop = Distillation(
            *(network(9), method, TeacherCards(earlier, TEACHERS.cards), plan),
            *(build_priors("pink", "noise"), 4),
            watch=self.events.append,
            rest=lambda: rest(self),
            public=public_of(method),
            earlier=earlier,
        )

    def to_its_end(self) -> Distilled:
        requests = self.loop.requests()
        try:
            request = next(requests)
            while True:
                self.asked += request != PAUSE
                request = requests.send(self.put(request) if request != PAUSE else {})
        except StopIteration as stop:
            return stop.value


def remains(distilled: Distilled, run: Run) -> State:
    """All of a run at its end."""
    assert distilled.student is run.loop.student
    return run.loop.state()


def same(one: State, other: State) -> bool:
    return (
        one.numbers == other.numbers
        and one.tensors.keys() == other.tensors.keys()
        and all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    )


@pytest.mark.parametrize(
    ("method", "plan"),
    [
        (cudfkd(), PLAN),
        (cudfkd(evolved=0.6), PLAN),
        (cudfkd(evolved=0.6), replace(PLAN, capacity=30)),
        (cudfkd("pull_back", **{**OWN, "bn_weight": 1.0}), PLAN),  # type: ignore[arg-type]
        (cudfkd("pull_back", **OWN), replace(PLAN, capacity=30, asking=1.0)),  # type: ignore[arg-type]
        (cudfkd("finite_differences", **OWN), replace(PLAN, weight_decay=0.1)),  # type: ignore[arg-type]
        (make("zskt", {"latent": 8}), replace(PLAN, asking=0.0)),
        (make("ta_dfkd", {"latent": 8}), PLAN),
        (make("rdskd", {"latent": 8, "capture_interval": 2}), PLAN),
        (make("dip_kd", {"contrast_steps": 2}), PLAN),
        (make("deepinversion", {"steps_per_batch": 3, "adversarial_weight": 1.0}), PLAN),
        (make("ideal", {"latent": 8, "generator_steps": 3}), PLAN),
        (make("disguide", {"latent": 8, "students": 3}), PLAN),
        (make("pre_dfkd", {"latent": 8, "replayed": 0.4}), replace(PLAN, capacity=30)),
        (make("fast_dfkd", {"latent": 8, "steps_per_batch": 3}), PLAN),
        (make("fast_dfkd", {"latent": 8, "steps_per_batch": 3, "meta_update": "reptile"}), PLAN),
        (make("cmi", {"latent": 8, "steps_per_batch": 2, "negatives": 9, "bank_size": 20}), PLAN),
        (make("hidfd", {"latent": 8}), PLAN),
        (make("odsd", {"round_share": 0.3}), PLAN),
        (make("kd3", {"round_share": 0.3}), PLAN),
        (make("dense", {"latent": 8, "steps_per_batch": 3, "warm_up": 0.2}), PLAN),
        (make("co_boosting", {"latent": 8, "steps_per_batch": 2, "warm_up": 0.2}), PLAN),
        (make("co_boosting", {"latent": 8, "steps_per_batch": 2}), replace(PLAN, capacity=30)),
        (make("zskd", {"steps_per_batch": 2}), PLAN),
        (cudfkd(), replace(PLAN, stop=3, held_back=0.3)),
        (make("gas", {"latent": 8, "steps_per_generator": 3}), PLAN),
        (make("df_gr_dt_id", {"latent": 8, "generated": 0.6}), PLAN),
    ],
    ids=[
        "priors",
        "evolution",
        "bounded",
        "generator",
        "bounded-generator",
        "finite-differences",
        "zskt",
        "selection",
        "stages",
        "primer",
        "pixels",
        "latents",
        "peers",
        "replay",
        "meta-initialisation",
        "reptile",
        "instance-discrimination",
        "public-samples",
        "chosen-public-samples",
        "confident-samples",
        "latents-of-an-ensemble",
        "learned-weights",
        "bounded-learned-weights",
        "data-impressions",
        "early-stopping",
        "generator-for-each-class",
        "earlier-student",
    ],
)
def test_whoever_goes_on_from_any_rest_ends_where_the_others_do(
    method: Method, plan: Plan, tmp_path: Path
) -> None:
    files: list[tuple[Path, int, int]] = []

    def rest(run: Run) -> None:
        file = tmp_path / f"{len(files)}.safetensors"
        write(run.loop.state(), file)
        files.append((file, len(run.events), run.asked))

    whole = Run(method, plan, rest)
    expected = remains(whole.to_its_end(), whole)
    assert len(files) >= 10
    for file, events, asked in files:
        again = Run(method, plan, lambda run: None)
        again.loop.restore(read(file))
        assert same(remains(again.to_its_end(), again), expected)
        assert again.events == whole.events[events:]
        assert again.asked == whole.asked - asked


def test_a_state_is_a_copy_and_its_file_the_same_each_time(tmp_path: Path) -> None:
    states: list[State] = []
    run = Run(cudfkd("pull_back", **OWN), PLAN, lambda run: states.append(run.loop.state()))  # type: ignore[arg-type]
    again: list[State] = []
    run.to_its_end()
    Run(
        cudfkd("pull_back", **OWN),  # type: ignore[arg-type]
        PLAN,
        lambda run: again.append(run.loop.state()),
    ).to_its_end()
    assert all(same(one, other) for one, other in zip(states, again, strict=True))
    assert not same(states[3], states[4])
    for name in ("one", "other"):
        write(states[3], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_the_state_of_another_run_does_not_fit() -> None:
    taken = Run(cudfkd(), PLAN, lambda run: None).loop.state()
    other = Run(cudfkd("pull_back", **OWN), PLAN, lambda run: None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"of another run: source.generator does not fit") as caught:
        other.loop.restore(taken)
    assert "\n" not in str(caught.value)


def test_what_is_no_state_of_this_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "state"
    with pytest.raises(DataError, match="is no state of a run"):
        read(file)
    write(State({"a": torch.zeros(3)}, {"b": 0.1}), file)
    assert read(file).numbers == {"b": 0.1}
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(DataError, match="is no state of a run"):
        read(file)
    monkeypatch.setattr("fedkd.core.checkpoint_state.VERSION", VERSION + 1)
    write(State(), file)
    monkeypatch.undo()
    with pytest.raises(
        DataError, match=rf"is of version {VERSION + 1} of the state, expected {VERSION};"
    ):
        read(file)
