"""A generator's gradient, pulled back question by question, is that of autograd in one piece.

In one process, and through a hub with an agent and a release gate for each institution.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import Tensor, nn

from fedkd.aggregation.learned_weights import LearnedWeights
from fedkd.aggregation.log_linear_pool import log_linear_pool
from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import build_release_mode
from fedkd.client.sessions.agent import Agent
from fedkd.loop import Plan, Progress, distil, drive
from fedkd.methods import METHODS, Method, cudfkd, ways
from fedkd.models import InProcess, ModuleTeacher
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Card, Request
from fedkd.server.hub.hub import Hub
from tests.support.gated_institutions import (
    OPEN,
    PUBLIC_SAMPLES,
    Put,
    make_known,
    public_samples,
    rng,
)
from tests.support.paper_objectives import (
    LOUD,
    Seen,
    bn_gap,
    certainty,
    frequencies,
    written_out,
)
from tests.support.tapped_generators import Step, generator_of, tapped, trained

SOON = 20.0
K, SHAPE = 5, (1, 8, 8)
ASKED = 24
"""Images in a question of the exact runs."""
COUNTS = {"east": (40, 5, 0, 12, 3), "north": (0, 30, 9, 0, 21), "west": (7, 7, 60, 1, 0)}
"""Training images of each class, far from uniform."""
LONG = {
    **{"stage": 0.99, "student_from": 0.0, "replayed": 0.0},
    **{"steps_per_batch": 2, "capture_interval": 2, "generated_last": 1.0},
    **{"warm_up": 0.0, "generated": 1.0},
}
"""The generator learns at each of five steps, in batches of two."""
NEAR = {"contrast_weight": 0.0}
"""What has no part in what is asked has a test of its own."""


# --- institutions


class Smooth(nn.Module):
    """A network with batch norm and no kink, so that float32 and float64 never part."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12)
        self.head = nn.Linear(12 * 16, K)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm1(self.conv1(x)))
        x = torch.tanh(self.norm2(self.conv2(x)))
        return self.head(x.flatten(1))


def trained_on_dark_images(seed: int) -> Smooth:
    """A network whose batch norms have seen dark images, the darker the higher the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Smooth().train()
    for batch in range(30):
        network(torch.rand(64, *SHAPE, generator=rng(100 * seed + batch)) ** (1 + seed))
    with torch.no_grad():
        network.head.weight *= 6  # random heads are too unsure to differ among images
    return network.eval()


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {name: trained_on_dark_images(seed) for seed, name in enumerate(COUNTS)}


Transport = Callable[
    [Mapping[str, nn.Module]], AbstractContextManager[tuple[tuple[Card, ...], Put]]
]


@contextmanager
def wire(networks: Mapping[str, nn.Module]) -> Iterator[tuple[tuple[Card, ...], Put]]:
    """A hub, an agent in a thread for each institution, a gate before each teacher."""
    with Hub("token") as hub:
        agents = []
        for name, network in networks.items():
            card = Card(name, K, SHAPE, OPEN.signals, True, class_counts=COUNTS[name])
            mode = build_release_mode(OPEN, ModuleTeacher(network, K), None)
            gate = ReleaseGate(OPEN, mode, card)
            agents.append(Agent(hub.address, "token", card, gate.answer))
        threads = [threading.Thread(target=agent.serve) for agent in agents]
        for thread in threads:
            thread.start()
        try:
            cards = hub.wait_for(len(agents), SOON)

            def put(request: Request) -> Answers:
                each = dict.fromkeys(COUNTS, request) if isinstance(request, Ask) else request
                answers, lost = hub.ask(each, SOON)
                assert not lost
                return answers

            yield cards, put
        finally:
            for agent in agents:
                agent.close()
            for thread in threads:
                thread.join(SOON)


@contextmanager
def one_process(networks: Mapping[str, nn.Module]) -> Iterator[tuple[tuple[Card, ...], Put]]:
    at_hand = InProcess(networks, SHAPE, K, COUNTS)
    yield at_hand.cards, at_hand.answer


# --- five steps of a generator


def five_steps(
    transport: Transport, method: Method, networks: Mapping[str, nn.Module]
) -> list[Step]:
    """Five steps of a generator, at five points of the ramp."""
    student = trained_on_dark_images(0)  # one of the teachers, or nothing would be decided alike
    steps: list[Step] = []
    public, weights = public_samples(method, SHAPE), dict[str, float]()

    def watch(progress: Progress) -> None:
        facts = progress.facts
        if progress.kind == "asked" and facts["origin"] != "public":
            # The student has caught up, the generator has not learned.
            steps[-1].student, steps[-1].weights = copy.deepcopy(student).eval(), dict(weights)
        if progress.kind == "weighed":
            weights.update(facts["weights"])  # type: ignore[call-overload]

    budget = ASKED * 5 * method.cost + (0 if public is None else PUBLIC_SAMPLES)
    plan = Plan(budget, ASKED, steps=10, student_batch=8, asking=1.0, prior="as_trained")
    with transport(networks) as (cards, put):
        loop = distil(
            *(student, tapped(method, steps), cards, plan, build_priors("pink")),
            seed=3,
            watch=watch,
            public=public,
        )
        drive(loop, put)
    before = [budget - ASKED * method.cost * left for left in (5, 4, 3, 2, 1)]
    assert [step.progress for step in steps] == pytest.approx([asked / budget for asked in before])
    interval = max(
        (term.capture_interval for _, term in generator_of(method).terms if term.capture), default=2
    )
    for number, step in enumerate(steps):  # captured is every step, or the second of each two
        earlier = number - 1 if number % 2 == 0 or interval == 1 else number - 2
        if earlier >= 0 and (number > 1 or interval == 1):
            step.previous = steps[earlier]
    return steps


# --- the objective of the paper, differentiated in one piece


def by_autograd(
    step: Step, networks: Mapping[str, nn.Module], method: Method, lost: str = ""
) -> Tensor:
    """d L_G / d generator, in one graph from the latents on; float64 from the images on.

    Args:
        step: where.
        networks: the teachers.
        method: the paper, and what stands for a teacher in it.
        lost: a part of the objective that is left out, for comparison.
    """
    target, student = copy.deepcopy(step.target), copy.deepcopy(step.student).double()
    student.train(generator_of(method).student_training)
    teachers = [copy.deepcopy(networks[name]).double() for name in COUNTS]
    drawn = target.draw(ASKED, torch.Generator().set_state(step.stream), True)
    asked = (drawn.images.detach() * 255).round().double() / 255
    x = drawn.images.double()
    pixels = x if lost == "rounding" else x + (asked - x).detach()
    s = student(pixels)
    logits = torch.stack([teacher(pixels) for teacher in teachers])
    match method.gradient.name:
        case "student":
            logits = s.expand_as(logits)
        case "straight_through":
            logits = logits.detach() + s - s.detach()
    t = fused(logits, method, step.weights, lost)
    gaps = torch.stack([bn_gap(teacher, pixels) for teacher in teachers]).mean()
    before = step.previous.terms if step.previous else {}
    seen = Seen(pixels, t, s, gaps, before, drawn.class_targets, step.discriminator)
    terms = written_out(method.name, seen, step.progress)
    step.terms = {name: value.detach() for name, value in certainty(t).items()}
    step.terms["drawn"] = frequencies(t.detach(), before)
    summed = {term.name for _, term in generator_of(method).terms} - {lost}
    torch.stack([terms[name] for name in sorted(summed)]).sum().backward()
    return flat({name: weight.grad for name, weight in trained(target).named_parameters()})


def fused(logits: Tensor, method: Method, weights: Mapping[str, float], lost: str) -> Tensor:
    """The institutions' logits (T, B, K) as the method fuses them, (B, K)."""
    counts = torch.tensor(list(COUNTS.values())).double()
    if method.rule_for("auto") != "mean_logits" or lost == "rule":
        return log_linear_pool(logits, torch.ones_like(counts) if lost == "counts" else counts)
    alike = dict.fromkeys(COUNTS, 1.0)
    weights = alike if lost == "weights" else weights or alike
    share = torch.tensor([weights[name] for name in COUNTS]).double()
    return torch.einsum("t,tbk->bk", share / share.sum(), logits)


def flat(gradients: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].flatten().double() for name in sorted(gradients)])


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(
    ("transport", "method"),
    [
        (wire, cudfkd("pull_back", latent=16)),
        *(
            (wire, make_known(name, latent=16, **LOUD, **LONG))
            for name in ("hidfd", "dense", "co_boosting", "zskd")
        ),
        (one_process, cudfkd("pull_back", latent=16)),
        (one_process, cudfkd("straight_through", bn_weight=0.0, latent=16)),
        (one_process, cudfkd("student", bn_weight=0.0, adversarial_stop=0.0, latent=16)),
        *(
            (one_process, make_known(name, gradient=gradient, latent=16, **LOUD, **LONG, **NEAR))
            for name in METHODS
            for gradient in ways(name)
            if name not in ("cudfkd", "ideal", "disguide", "df_gr_dt_id", "gas", "dfkd_regression")
            and gradient not in ("none", "finite_differences")
        ),
    ],
    ids=lambda x: f"{x.name}-{x.gradient.name}" if isinstance(x, Method) else x.__name__,
)
def test_the_generators_gradient_is_that_of_autograd_in_one_piece(
    transport: Transport, method: Method, networks: dict[str, nn.Module]
) -> None:
    exact = method.gradient.pulls_back
    steps = five_steps(transport, method, networks)
    for step in steps:
        assert apart(flat(step.taken), by_autograd(step, networks, method)) < 1e-5
    # The comparison would see it if any of this were missing.
    terms = [term.name for _, term in generator_of(method).terms]
    parts = terms if exact and len(terms) > 1 else []
    learned = isinstance(method.aggregation, LearnedWeights)
    how = ["counts"] if method.rule_for("auto") == "auto" else ["rule", *(["weights"] * learned)]
    for lost in (*parts, "rounding", *(how if exact else [])):
        without = [by_autograd(step, networks, method, lost) for step in steps]
        assert max(apart(flat(s.taken), w) for s, w in zip(steps, without, strict=True)) > 1e-3


def test_without_a_curriculum_the_generators_adversarial_weight_still_rises(
    networks: dict[str, nn.Module],
) -> None:
    method = cudfkd("pull_back", latent=16, curriculum="none")
    steps = five_steps(one_process, method, networks)
    for step in steps:
        assert apart(flat(step.taken), by_autograd(step, networks, method)) < 1e-5
    unopposed = [by_autograd(step, networks, method, "adversarial_kl") for step in steps]
    assert max(apart(flat(s.taken), u) for s, u in zip(steps, unopposed, strict=True)) > 1e-3


@pytest.mark.parametrize("name", ["disguide", "pre_dfkd", "fast_dfkd", "cmi"])
def test_through_the_wire_and_in_one_process_the_student_is_the_same(
    name: str, networks: dict[str, nn.Module]
) -> None:
    method = make_known(
        name, latent=8, warm_up=0.2, replayed=0.3, steps_per_batch=2, student_from=0.1
    )
    students = []
    for transport in (wire, one_process):
        student = trained_on_dark_images(0)
        with transport(networks) as (cards, put):
            plan = Plan(budget=120, batch=12, steps=10, student_batch=8)
            drive(distil(student, method, cards, plan, build_priors("pink"), seed=3), put)
        students.append(torch.cat([p.flatten() for p in student.parameters()]))
    assert torch.equal(*students)
