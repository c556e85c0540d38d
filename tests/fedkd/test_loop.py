"""The loop: exact through the wire, never over budget, never twice, the same from the same seed."""

import copy
import inspect
import json
import math
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import pytest
import torch
from fedkd.synthesis.sources import Drawn, Generated, Kept
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedkd.aggregation.fusion import log_linear_pool
from fedkd.aggregation.selection import confident
from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import build_release_mode
from fedkd.client.sessions.agent import Agent
from fedkd.core.augmentation import NO_AUGMENTATION, Augmentation
from fedkd.errors import NeedsError, QuorumLost, SettingsError
from fedkd.loop import PAUSE, Distilled, Plan, Progress, distil, drive
from fedkd.methods import METHODS, Method, cudfkd, make, ways
from fedkd.models import InProcess, ModuleTeacher
from fedkd.privacy import Policy
from fedkd.procedural import Shape, UniformNoise, build_priors
from fedkd.protocol import Answers, Ask, Card, Refusal, Reply, Request, Signal
from fedkd.server.hub.hub import Hub
from fedkd.student.curriculum import constant
from fedkd.synthesis import generator_training as invention
from fedkd.synthesis.discriminator import Critic, Judgement
from fedkd.synthesis.gradients import GRADIENTS, as_float

LOGITS, BN_GAP = Signal.LOGITS, Signal.BN_GAP
OPEN = Policy(frozenset({LOGITS, BN_GAP}), pull_back=True, class_counts=True)
SOON = 20.0
Loop = Generator[Request, Answers, Distilled]
Put = Callable[[Request], Answers]
"""Puts a request to the institutions."""


def made(name: str, **wishes: object) -> Method:
    """That method, with what its factory takes of these arguments."""
    known = inspect.signature(METHODS[name]).parameters
    return make(name, {key: value for key, value in wishes.items() if key in known})


# --- teachers


K, SHAPE = 5, (1, 8, 8)
ASKED = 24
"""Images in a question of the exact runs."""
COLLECTED = 6
"""Images that a coordinator has, where its method needs some."""
COUNTS = {"east": (40, 5, 0, 12, 3), "north": (0, 30, 9, 0, 21), "west": (7, 7, 60, 1, 0)}
"""Training images of each class, far from uniform."""


def own_images(method: Method, shape: Shape) -> Tensor | None:
    """What a coordinator would have collected for that method."""
    if not method.inflation:
        return None
    return torch.randint(0, 256, (COLLECTED, *shape), generator=rng(17), dtype=torch.uint8)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def remembering(seed: int) -> Smooth:
    """A network whose batch norms remember dark images, the darker the higher the seed."""
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
    return {name: remembering(seed) for seed, name in enumerate(COUNTS)}


Road = Callable[[Mapping[str, nn.Module]], AbstractContextManager[tuple[tuple[Card, ...], Put]]]


@contextmanager
def wire(networks: Mapping[str, nn.Module]) -> Iterator[tuple[tuple[Card, ...], Put]]:
    """A hub, an agent in a thread for each institution, a door before each teacher."""
    with Hub("token") as hub:
        agents = []
        for name, network in networks.items():
            card = Card(name, K, SHAPE, OPEN.signals, True, class_counts=COUNTS[name])
            door = ReleaseGate(OPEN, build_release_mode(OPEN, ModuleTeacher(network, K), None), card)
            agents.append(Agent(hub.address, "token", card, door.answer))
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


# --- the objective of the paper, differentiated in one piece


@dataclass
class Step:
    """All that a generator step depends on, and the gradient that it took."""

    source: Generated | Kept
    student: nn.Module
    stream: Tensor
    """State of the random stream before the images were drawn."""
    taken: dict[str, Tensor] = field(default_factory=dict)
    progress: float = math.nan
    reminded: "Step | None" = None
    """Whose terms this one is compared with; None: zero."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    """Of institutions, where they are learned."""
    critic: nn.Module | None = None


def judging(steps: list[Step]) -> type[Critic]:
    """The critic that the loop uses, which also writes down what judged each step."""

    class Judging(Critic):
        def judge(self, images: Tensor) -> Judgement:
            steps[-1].critic = copy.deepcopy(self.network).eval().double()
            return super().judge(images)

    return Judging


def tapped(
    kind: type[Generated] | type[Kept], steps: list[Step], student: nn.Module
) -> type[Generated] | type[Kept]:
    """The source that the loop uses, which also writes down every step."""

    def draw(self: Generated | Kept, count: int, rng: torch.Generator) -> Drawn:
        before = copy.deepcopy(self)
        steps.append(Step(before, student, rng.get_state()))
        for name, parameter in trained(self).named_parameters():
            if not parameter._post_accumulate_grad_hooks:
                parameter.register_post_accumulate_grad_hook(
                    lambda p, name=name: steps[-1].taken.update({name: p.grad.clone()})
                )
        return kind.draw(self, count, rng)

    return type("Tapped", (kind,), {"draw": draw})


def kind_of(source: Generated | Kept) -> type[Generated] | type[Kept]:
    """What the loop would use."""
    return Generated if isinstance(source, Generated) else Kept


def trained(source: Generated | Kept) -> nn.Module:
    """What its optimiser trains."""
    return source.generator if isinstance(source, Generated) else source.painter


def gap(network: nn.Module, x: Tensor) -> Tensor:
    """sum over layers of |var_running - var(h)|_2 + |mu_running - mu(h)|_2."""
    total = []

    def hear(norm: nn.Module, read: tuple[Tensor]) -> None:
        h = read[0].transpose(0, 1).flatten(1)
        total.append((norm.running_var - h.var(1, correction=0)).square().sum().sqrt())
        total.append((norm.running_mean - h.mean(1)).square().sum().sqrt())

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(hear) for norm in norms]
    network(x)
    for hook in hooks:
        hook.remove()
    return torch.stack(total).sum()


LOUD = {"bn_weight": 0.01, "tv_weight": 0.01, "l2_weight": 0.01, "adversarial_weight": 1.0}
"""At the papers' weights one term drowns the others, and nobody would miss them."""
LONG = {"stage": 0.99, "epoch": 2, "idle": 0.0, "replayed": 0.0}
"""The generator learns at each of five steps, in epochs of two."""
NEAR = {"contrast_weight": 0.0}
"""What has no part in what is asked has a test of its own."""


def apart_by_js(t: Tensor, s: Tensor, kept: Tensor) -> Tensor:
    """Divergence at temperature 3 of the images kept, (B, K)."""
    p, q = (t[kept] / 3).softmax(1), (s[kept] / 3).softmax(1)
    p, q, m = p.clamp(0.01, 0.99), q.clamp(0.01, 0.99), (p / 2 + q / 2).clamp(0.01, 0.99)
    return (m * (m / p).log() + m * (m / q).log()) / 2


def variation(x: Tensor) -> Tensor:
    """|dx| + |dy| + both diagonals, whole-batch norms."""
    h, w = x.shape[2:]
    total = torch.zeros(()).to(x)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = x[:, :, : h - dy, max(0, -dx) : w - max(0, dx)]
        there = x[:, :, dy:, max(0, dx) : w + min(0, dx)]
        total = total + (here - there).square().sum().sqrt()
    return total


@dataclass
class Seen:
    """Images, what teacher and student say of them, the gap, and terms of an earlier step."""

    x: Tensor
    t: Tensor
    s: Tensor
    gap: Tensor
    before: Mapping[str, Tensor]
    wanted: Tensor | None
    critic: nn.Module | None


def logged(t: Tensor) -> dict[str, Tensor]:
    """Uncertainty of each answer, and the negative entropy of all of them."""
    mean = t.softmax(1).mean(0)
    sure = -t.log_softmax(1).max(1).values.mean()
    return {"one_hot": sure, "class_balance": (mean * mean.log()).sum()}


def frequencies(t: Tensor, before: Mapping[str, Tensor]) -> Tensor:
    """How often each class was drawn, (K,): 50 at first, then half of it and half of this batch."""
    counts = torch.tensor([float((t.argmax(1) == c).sum()) for c in range(K)])
    return (before["drawn"] / 2 + counts / 2).clamp_min(1.0)


def rivals(seen: Seen) -> dict[str, Tensor]:
    """The weighted terms of HiDFD's generator."""
    assert seen.critic is not None
    assert seen.wanted is not None
    judged, n = seen.critic(seen.x), seen.before.get("drawn", torch.full((K,), 50.0))
    weight = 0.01 / (1 - 0.99 ** n.double())
    p, rows = seen.t.softmax(1).mean(0), range(len(seen.x))
    collected, invented = (judged.sides.log_softmax(1)[rows, 2 * seen.wanted + i] for i in (0, 1))
    return {
        "realness": -judged.score.mean(),
        "sidedness": (invented - collected).mean(),
        "category_frequency": 0.1 * K * (weight / weight.sum() * p * p.log()).sum(),
    }


def divergence(seen: Seen, temperature: float) -> Tensor:
    """tau^2 KL(T || S), (B,)."""
    p, q = (seen.t / temperature).softmax(1), (seen.s / temperature).softmax(1)
    return temperature**2 * (p * (p / q).log()).sum(1)


def of_ensembles(paper: str, seen: Seen) -> dict[str, Tensor]:
    """The weighted terms of those that began with several teachers, or with one's weights."""
    t, s, everything, wanted = seen.t, seen.s, range(len(seen.t)), seen.wanted
    assert wanted is not None
    if paper == "dense":
        apart = divergence(seen, 1) * (t.argmax(1) != s.argmax(1))
        certain = -t.log_softmax(1)[everything, wanted].mean()
        gap = LOUD["bn_weight"] * seen.gap
        return {"wanted_class": certain, "boundary_support": -apart.mean(), "bn_gap": gap}
    if paper == "co_boosting":
        p = t.softmax(1)[everything, wanted]
        hard = (-(1 - p.detach()) * p.log()).mean()
        return {"hard_class": hard, "agreement": -divergence(seen, 3).mean()}
    y = wanted if wanted.ndim == 2 else torch.eye(K)[wanted]
    return {"wanted_class": -(y * (t / 20).log_softmax(1)).sum(1).mean()}


def inverted(paper: str, seen: Seen, progress: float) -> dict[str, Tensor]:
    """The weighted terms of a paper whose images are to show a class, by name."""
    x, t, s = seen.x, seen.t, seen.s
    wanted = -t.log_softmax(1)[range(len(t)), seen.wanted].mean()
    both = {"wanted_class": wanted, "bn_gap": LOUD["bn_weight"] * seen.gap}
    if paper == "deepinversion":
        everything = torch.ones(len(t), dtype=torch.bool)
        return both | {
            "total_variation": LOUD["tv_weight"] * variation(x),
            "magnitude": LOUD["l2_weight"] * x.square().sum().sqrt(),
            "jensen_shannon": LOUD["adversarial_weight"]
            * (1 - apart_by_js(t, s, everything).sum(1).mean()),
        }
    alike = t.argmax(1) == s.argmax(1)
    opposed = -LOUD["adversarial_weight"] * (alike * divergence(seen, 1)).mean()
    if paper == "cmi":
        return both | {"agreement": opposed}
    return both | {"wanted_class": 0.5 * wanted, "agreement": opposed * (progress > 0)}


def written_out(  # noqa: C901 - one case for each paper
    paper: str, seen: Seen, progress: float
) -> dict[str, Tensor]:
    """The weighted terms of that paper's generator, by name."""
    x, t, s, gap = seen.x, seen.t, seen.s, seen.gap
    sure, balance = logged(t).values()
    if paper in ("hidfd", "dense", "co_boosting", "zskd"):
        return rivals(seen) if paper == "hidfd" else of_ensembles(paper, seen)
    match paper:
        case "cudfkd":
            hardness = min(max((progress - 0.25) / 0.5, 0.0), 1.0)
            alike = t.argmax(1) == s.argmax(1)
            return {
                "one_hot": sure,
                "bn_gap": gap,
                "class_balance": 20 * balance,
                "agreement": -62 * hardness * (alike * divergence(seen, 3)).mean(),
            }
        case "dafl":
            return {"one_hot": sure, "class_balance": 5 * balance}
        case "zskt":
            return {"agreement": -divergence(seen, 1).mean()}
        case "rdskd":
            p, half = t.softmax(1), len(t) // 2
            moved = (p[half:] - p[:half]).square().sum() / (x[half:] - x[:half]).square().sum()
            gained = {n: v - seen.before.get(n, 0.0) for n, v in logged(t).items()}
            return {n: g.exp() for n, g in gained.items()} | {"sameness": moved.sqrt()}
        case "dfq":
            fixed = {"agreement": -divergence(seen, 1).mean(), "one_hot": sure}
            return fixed | {"class_balance": 20 * balance, "bn_gap": LOUD["bn_weight"] * gap}
        case "ddad":
            apart = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
            fixed = {"discrepancy": -apart.abs().mean(), "one_hot": sure}
            return fixed | {"bn_gap": LOUD["bn_weight"] * gap}
        case "deepinversion" | "fast_dfkd" | "cmi":
            return inverted(paper, seen, progress)
        case "pre_dfkd":
            everything = torch.ones(len(t), dtype=torch.bool)
            apart = apart_by_js(t.detach(), s, everything).mean()
            return {"one_hot": sure, "class_balance": 5 * balance, "jensen_shannon": 1 - apart}
        case "ta_dfkd":
            return {
                "jensen_shannon": 1 - apart_by_js(t, s, confident()(t.detach())).mean(),
                "bn_gap": LOUD["bn_weight"] * gap,
                "total_variation": LOUD["tv_weight"] * variation(x),
                "magnitude": LOUD["l2_weight"] * x.square().sum().sqrt(),
            }
        case _:
            apart = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
            return {"discrepancy": -apart.abs().mean()}


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
    source, student = copy.deepcopy(step.source), copy.deepcopy(step.student).double()
    teachers = [copy.deepcopy(networks[name]).double() for name in COUNTS]
    shown = kind_of(source).draw(source, ASKED, torch.Generator().set_state(step.stream))
    drawn = shown.images
    asked = (drawn.detach() * 255).round().double() / 255
    x = drawn.double()
    pixels = x if lost == "rounding" else x + (asked - x).detach()
    s = student(pixels)
    said = torch.stack([teacher(pixels) for teacher in teachers])
    match method.gradient.name:
        case "student":
            said = s.expand_as(said)
        case "straight_through":
            said = said.detach() + s - s.detach()
    counts = torch.tensor(list(COUNTS.values())).double()
    t = log_linear_pool(said, torch.ones_like(counts) if lost == "counts" else counts)
    if method.rule == "mean_logits" and lost != "rule":
        alike = dict.fromkeys(COUNTS, 1.0)
        weights = alike if lost == "weights" else step.weights or alike
        share = torch.tensor([weights[name] for name in COUNTS]).double()
        t = torch.einsum("t,tbk->bk", share / share.sum(), said)
    gaps = torch.stack([gap(teacher, pixels) for teacher in teachers]).mean()
    before = step.reminded.terms if step.reminded else {}
    seen = Seen(pixels, t, s, gaps, before, shown.wanted, step.critic)
    terms = written_out(method.name, seen, step.progress)
    step.terms = {name: value.detach() for name, value in logged(t).items()}
    step.terms["drawn"] = frequencies(t.detach(), {"drawn": torch.full((K,), 50.0), **before})
    asked_for = {term.name for _, term in method.objective} - {lost}
    torch.stack([terms[name] for name in sorted(asked_for)]).sum().backward()
    return flat({name: weight.grad for name, weight in trained(source).named_parameters()})


def flat(gradients: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].flatten().double() for name in sorted(gradients)])


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def exact_run(
    road: Road, method: Method, networks: Mapping[str, nn.Module], patch: pytest.MonkeyPatch
) -> list[Step]:
    """Five steps of a generator, at five points of the ramp."""
    student = remembering(0)  # one of the teachers at first, or nothing would be decided alike
    steps: list[Step] = []
    for kind in (Generated, Kept):
        patch.setattr(invention, kind.__name__, tapped(kind, steps, student))
    patch.setattr(invention, "Critic", judging(steps))
    collected, weights = own_images(method, SHAPE), dict[str, float]()

    def watch(progress: Progress) -> None:
        if progress.kind == "asked" and progress.facts["origin"] != "collected":
            # The student has caught up, the generator has not learned.
            steps[-1].progress, steps[-1].weights = progress.facts["done"], dict(weights)
            steps[-1].student = copy.deepcopy(student).eval()
        weights.update(progress.facts.get("weights", {}))

    budget = ASKED * 5 * method.cost + (0 if collected is None else COLLECTED)
    plan = Plan(budget, batch=ASKED, steps=10, student_batch=8, asking=1.0)
    with road(networks) as (cards, put):
        loop = distil(
            *(student, method, cards, plan, build_priors("pink")),
            seed=3,
            watch=watch,
            collected=collected,
        )
        drive(loop, put)
    waits = method.student_from > 0.8
    assert [step.progress for step in steps] == ([0.0] * 5 if waits else [0.0, 0.2, 0.4, 0.6, 0.8])
    for number, step in enumerate(steps):  # epochs are of two steps, but for HiDFD's
        earlier = number - 1 if number % 2 == 0 or method.epoch == 1 else number - 2
        step.reminded = (
            steps[earlier] if earlier >= 0 and (number > 1 or method.epoch == 1) else None
        )
    return steps


@pytest.mark.parametrize(
    ("road", "method"),
    [
        (wire, cudfkd("pull_back", latent=16)),
        *(
            (wire, made(name, latent=16, **LOUD, **LONG))
            for name in ("hidfd", "dense", "co_boosting", "zskd")
        ),
        (one_process, cudfkd("pull_back", latent=16)),
        (one_process, cudfkd("straight_through", bn_weight=0.0, latent=16)),
        (one_process, cudfkd("student", bn_weight=0.0, latent=16)),
        *(
            (one_process, made(name, gradient=gradient, latent=16, **LOUD, **LONG, **NEAR))
            for name in METHODS
            for gradient in ways(name)
            if name not in ("cudfkd", "ideal", "disguide")
            and gradient not in ("none", "finite_differences")
        ),
    ],
    ids=lambda x: f"{x.name}-{x.gradient.name}" if isinstance(x, Method) else x.__name__,
)
def test_the_generators_gradient_is_that_of_autograd_in_one_piece(
    road: Road, method: Method, networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = method.gradient.pulls_back
    steps = exact_run(road, method, networks, monkeypatch)
    for step in steps:
        assert apart(flat(step.taken), by_autograd(step, networks, method)) < 1e-5
    # The comparison would see it if any of this were missing.
    terms = [term.name for _, term in method.objective]
    parts = terms if exact and len(terms) > 1 else []
    how = ["counts"] if method.rule == "auto" else ["rule", *(["weights"] * bool(method.boosting))]
    for lost in (*parts, "rounding", *(how if exact else [])):
        without = [by_autograd(step, networks, method, lost) for step in steps]
        assert max(apart(flat(s.taken), w) for s, w in zip(steps, without, strict=True)) > 1e-3


@pytest.mark.parametrize("name", ["disguide", "pre_dfkd", "fast_dfkd", "cmi"])
def test_through_the_wire_and_in_one_process_the_student_is_the_same(
    name: str, networks: dict[str, nn.Module]
) -> None:
    method = made(name, latent=8, warm_up=0.2, replayed=0.3, epoch=2, idle=0.1)
    students = []
    for road in (wire, one_process):
        student = remembering(0)
        with road(networks) as (cards, put):
            plan = Plan(budget=120, batch=12, steps=10, student_batch=8)
            drive(distil(student, method, cards, plan, build_priors("pink"), seed=3), put)
        students.append(torch.cat([p.flatten() for p in student.parameters()]))
    assert torch.equal(*students)


# --- small institutions, for all that does not depend on what they know


TINY, FEW = (1, 4, 4), 3


def linear(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, FEW))


class Doors:
    """Institutions in this process, each behind its door; keeps what they were asked."""

    def __init__(self, count: int = 2, policy: Policy = OPEN) -> None:
        self.doors: dict[str, ReleaseGate] = {}
        self.requests: list[Request] = []
        for index in range(count):
            teacher, name = ModuleTeacher(linear(index), FEW), f"institution-{index}"
            card = Card(
                name,
                FEW,
                TINY,
                policy.signals & teacher.signals,
                policy.pull_back,
                policy.samples,
                class_counts=(3 + index, 5, 9 - index),
            )
            self.doors[name] = ReleaseGate(policy, build_release_mode(policy, teacher, None), card)
        self.cards = tuple(door._card for door in self.doors.values())

    def put(self, request: Request) -> Answers:
        assert request != PAUSE
        self.requests.append(request)
        each = dict.fromkeys(self.doors, request) if isinstance(request, Ask) else request
        said = {name: self.doors[name].answer(own) for name, own in each.items()}
        return {name: reply for name, reply in said.items() if isinstance(reply, Reply)}

    @property
    def asks(self) -> list[Ask]:
        return [request for request in self.requests if isinstance(request, Ask)]


def mixed(gradient: str, **arguments: object) -> Method:
    """A method that asks about images of every source that it may."""
    own = {"bn_weight": 0.0, "latent": 8, "warm_up": 0.3, "generated": 0.7, "evolved": 0.4}
    return cudfkd(gradient, **{**own, **arguments})


def run(
    method: Method, plan: Plan, doors: Doors | None = None, seed: int = 0, put: Put | None = None
) -> tuple[Distilled, list[Progress]]:
    doors = doors or Doors()
    told: list[Progress] = []
    loop = distil(
        *(linear(99), method, doors.cards, plan, build_priors("noise")),
        seed=seed,
        watch=told.append,
        collected=own_images(method, TINY),
    )
    return drive(loop, put or doors.put), told


def by_hand(loop: Loop, put: Put) -> Distilled:
    """What `drive` does, pauses included in what is put."""
    try:
        request = next(loop)
        while True:
            request = loop.send(put(request))
    except StopIteration as stop:
        return stop.value


def facts(told: list[Progress], kind: str, name: str) -> list[object]:
    return [progress.facts[name] for progress in told if progress.kind == kind]


# --- what is asked


@pytest.mark.parametrize("gradient", sorted(GRADIENTS))
@given(
    budget=st.integers(1, 40),
    batch=st.integers(1, 12),
    steps=st.integers(0, 9),
    asking=st.sampled_from([0.0, 0.6, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=10, deadline=None)
def test_institutions_are_asked_about_the_budget_and_nothing_beyond(
    gradient: str, budget: int, batch: int, steps: int, asking: float, seed: int
) -> None:
    doors, most = Doors(), []
    plan = Plan(budget, batch, steps, student_batch=4, asking=asking)
    method = mixed(gradient, warm_up=0.0 if seed % 2 else 0.3)

    def put(request: Request) -> Answers:
        answers = doors.put(request)
        most.append(max(door.totals.asked for door in doors.doors.values()))
        return answers

    distilled, _ = run(method, plan, doors, seed, put)
    assert max(most) == budget
    for door in doors.doors.values():
        assert door.totals.asked == distilled.asked == budget
        assert door.totals.pulled_back == distilled.pulled_back <= budget
        assert door.totals.refused == 0
    assert distilled.student_steps == steps


def keys(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in as_float(images)]


@pytest.mark.parametrize("gradient", sorted(GRADIENTS))
def test_no_image_is_asked_about_twice_but_to_be_pulled_back(gradient: str) -> None:
    doors = Doors()
    run(mixed(gradient), Plan(300, 16, steps=60, student_batch=8), doors)
    asked = [key for ask in doors.asks for key in keys(ask.images)]
    assert len(set(asked)) == len(asked) == 300
    pulled = [
        key
        for request in doors.requests
        if isinstance(request, Mapping)
        for each in list(request.values())[:1]
        for key in keys(each.images)
    ]
    assert len(set(pulled)) == len(pulled)
    assert set(pulled) <= set(asked)
    assert bool(pulled) == (gradient == "pull_back")


class Few:
    """Snow, of which there are only some images."""

    def __init__(self, many: int) -> None:
        self.images = UniformNoise().draw(many, TINY, rng(0))

    def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        return self.images[torch.randint(len(self.images), (count,), generator=rng)]


def alone(*names: str) -> Method:
    """Questions of those sources alone, as many of each."""
    return Method("alone", "none", shares={name: constant(1.0) for name in names})


def test_a_source_that_repeats_itself_is_asked_about_its_images_once_and_then_ends_the_run() -> (
    None
):
    doors = Doors()
    loop = distil(linear(99), alone("prior"), doors.cards, Plan(500, 8, steps=5), {"few": Few(20)})
    with pytest.raises(SettingsError, match="prior drew only images that were asked about before"):
        drive(loop, doors.put)
    asked = [key for ask in doors.asks for key in keys(ask.images)]
    assert len(set(asked)) == len(asked) <= 20


def test_a_source_that_repeats_itself_gives_its_turns_to_the_others() -> None:
    doors, told = Doors(), list[Progress]()
    method, plan, few = alone("prior", "evolution"), Plan(200, 4, steps=5), {"few": Few(20)}
    done = drive(distil(linear(99), method, doors.cards, plan, few, watch=told.append), doors.put)
    asked = [key for ask in doors.asks for key in keys(ask.images)]
    assert done.asked == len(set(asked)) == len(asked) == 200
    origins = facts(told, "asked", "origin")
    assert 5 <= origins.count("few") <= 20  # half of the turns are the prior's, but it has no more
    assert set(origins[-20:]) == {"evolution"}


def test_only_declared_signals_are_asked_for_and_only_where_something_learns() -> None:
    doors = Doors()
    norms = {name: nn.Sequential(nn.BatchNorm2d(1), linear(1)) for name in doors.doors}
    at_hand = InProcess(norms, TINY, FEW)
    asks: list[Ask] = []

    def put(request: Request) -> Answers:
        if isinstance(request, Ask):
            asks.append(request)
        return at_hand.answer(request)

    method = mixed("pull_back", bn_weight=1.0)
    told: list[Progress] = []
    plan = Plan(200, 10, steps=40, student_batch=8)
    drive(
        distil(linear(9), method, at_hand.cards, plan, build_priors("noise"), watch=told.append),
        put,
    )
    origins = facts(told, "asked", "origin")
    assert {"generator", "noise", "evolution"} == set(origins)
    for ask, origin in zip(asks, origins, strict=True):
        trains = origin == "generator"
        assert ask.signals == ({LOGITS, BN_GAP} if trains else {LOGITS})
        assert ask.exact == trains


def test_a_batch_of_one_generated_image_can_be_learned_from() -> None:
    distilled, _ = run(cudfkd("pull_back", bn_weight=0.0, latent=8), Plan(3, 1, steps=3))
    assert distilled.generator_steps == 3


# --- the same arguments, the same run


@pytest.mark.parametrize(
    "method",
    [
        *(mixed(gradient) for gradient in ways("cudfkd")),
        *(
            made(name, latent=8, warm_up=0.3, generated=0.7, bn_weight=0.0, epoch=2)
            for name in METHODS
            if name != "cudfkd"
        ),
    ],
    ids=lambda method: f"{method.name}-{method.gradient.name}",
)
def test_one_seed_gives_one_student_and_another_seed_another(method: Method) -> None:
    plan = Plan(120, 16, steps=30, student_batch=8)
    weights, questions = [], []
    for seed in (5, 5, 6):
        doors = Doors()
        torch.rand(len(weights))  # the global stream is nobody's seed
        distilled, _ = run(method, plan, doors, seed)
        weights.append(torch.cat([p.flatten() for p in distilled.student.parameters()]))
        questions.append([key for ask in doors.asks for key in keys(ask.images)])
    assert torch.equal(weights[0], weights[1])
    assert questions[0] == questions[1]
    assert not torch.equal(weights[0], weights[2])
    assert questions[0] != questions[2]


def test_views_are_learned_and_neither_asked_about_nor_kept() -> None:
    still, moving = Doors(), Doors()
    plans = [Plan(60, 16, steps=10, views=views) for views in (NO_AUGMENTATION, Augmentation(1, True))]
    one, other = (run(cudfkd(), plan, d)[0] for plan, d in zip(plans, (still, moving), strict=True))
    for a, b in zip(still.asks, moving.asks, strict=True):
        assert torch.equal(a.images, b.images)
    assert torch.equal(one.bank.images, other.bank.images)
    weights = (torch.cat([w.flatten() for w in d.student.parameters()]) for d in (one, other))
    assert not torch.equal(*weights)


def test_watching_changes_nothing_and_tells_what_json_can_say() -> None:
    plan = Plan(100, 16, steps=20, student_batch=8)
    watched, told = run(mixed("pull_back"), plan)
    doors = Doors()
    alone = drive(
        distil(linear(99), mixed("pull_back"), doors.cards, plan, build_priors("noise")), doors.put
    )
    for one, other in zip(watched.student.parameters(), alone.student.parameters(), strict=True):
        assert torch.equal(one, other)
    assert {progress.kind for progress in told} == {"asked", "generated", "trained"}
    for progress in told:
        assert json.loads(json.dumps(progress.facts, allow_nan=False)) == progress.facts


# --- institutions that are late or lost


@pytest.mark.parametrize("gradient", ["none", "pull_back", "finite_differences"])
def test_a_run_goes_on_without_who_is_late_at_the_same_pace_and_hardness(gradient: str) -> None:
    plan = Plan(160, 10, steps=40, student_batch=8)
    doors, count = Doors(3), iter(range(10_000))

    def put(request: Request) -> Answers:
        answers, late = dict(doors.put(request)), f"institution-{next(count) % 4}"
        answers.pop(late, None)  # every fourth question is answered by all
        return answers

    patchy, told = run(mixed(gradient), plan, doors, put=put)
    whole, expected = run(mixed(gradient), plan, Doors(3))
    assert (patchy.asked, patchy.student_steps) == (whole.asked, whole.student_steps) == (160, 40)
    for name in ("step", "pace", "hardness"):
        assert facts(told, "trained", name) == facts(expected, "trained", name)
    assert set(facts(told, "trained", "hardness")) > {0.0, 1.0}
    assert len(set(facts(told, "trained", "pace"))) == 40
    assert patchy.generator_steps == len(facts(told, "generated", "step"))


def test_who_never_answers_is_not_in_the_record() -> None:
    doors = Doors(2)

    def put(request: Request) -> Answers:
        return {n: r for n, r in doors.put(request).items() if n == "institution-1"}

    _, told = run(cudfkd(), Plan(40, 10, steps=8, student_batch=8), doors, put=put)
    assert facts(told, "trained", "difficulty_by_institution")[-1].keys() == {"institution-1"}


def test_a_question_that_nobody_answers_ends_the_run_in_one_line() -> None:
    doors = Doors(policy=replace(OPEN, samples=25))
    with pytest.raises(QuorumLost, match="nobody answered") as caught:
        run(cudfkd(), Plan(40, 10, steps=8, student_batch=8), doors)
    assert "\n" not in str(caught.value)
    assert [door.totals.asked for door in doors.doors.values()] == [20, 20]
    assert isinstance(doors.doors["institution-0"].answer(doors.asks[-1]), Refusal)


# --- what cannot be run is said before anything is asked


NEEDY = Policy(frozenset({LOGITS}), class_counts=True)


@pytest.mark.parametrize(
    ("method", "cards", "error", "words"),
    [
        (cudfkd(), (), SettingsError, ["no institution to ask"]),
        (
            cudfkd(),
            (Doors().cards[0], replace(Doors().cards[1], classes=4)),
            SettingsError,
            ["the student answers (1, 3)", "4 classes (0, 1, 2, 3)", "nobody knows"],
        ),
        (
            cudfkd(),
            (Doors().cards[0], replace(Doors().cards[1], shape=(3, 4, 4))),
            SettingsError,
            ["institution-1", "(3, 4, 4)", "institution-0", "(1, 4, 4)", "must agree"],
        ),
        (
            cudfkd("pull_back"),
            Doors().cards,
            NeedsError,
            ["cudfkd needs bn_gap", "term bn_gap", "institution-0", "policy.signals"],
        ),
        (
            cudfkd("pull_back", bn_weight=0.0),
            Doors(policy=NEEDY).cards,
            NeedsError,
            ["pull_back", "institution-0", "policy.pull_back = true"],
        ),
        (
            cudfkd(),
            (Doors().cards[0], replace(Doors().cards[1], signals=frozenset({BN_GAP}))),
            NeedsError,
            ["needs logits", "institution-1"],
        ),
    ],
)
def test_the_impossible_is_refused_in_one_line_before_the_first_question(
    method: Method, cards: tuple[Card, ...], error: type[SettingsError], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        next(distil(linear(0), method, cards, Plan(10), build_priors("noise")))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"budget": 0},
        {"batch": 0},
        {"student_batch": 0},
        {"steps": -1},
        {"asking": 1.01},
        {"asking": math.nan},
        {"capacity": 63},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        Plan(**{"budget": 10, **values})


# --- the student's steps


@pytest.mark.parametrize("asking", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [0, 1, 7, 33, 301])
def test_the_student_takes_the_steps_of_the_plan_and_pauses_between(
    asking: float, steps: int
) -> None:
    doors, student, taken = Doors(), linear(99), []
    student.register_forward_pre_hook(
        lambda module, _: taken.append(1) if module.training else None
    )
    loop = distil(
        student, cudfkd(), doors.cards, Plan(50, 16, steps, 4, asking=asking), build_priors("noise")
    )
    at_pause: list[int] = []

    def put(request: Request) -> Answers:
        if request == PAUSE:
            at_pause.append(len(taken))
            return {}
        assert not at_pause  # all is asked before the first pause
        return doors.put(request)

    distilled = by_hand(loop, put)
    assert len(taken) == distilled.student_steps == steps
    while_asking = round(asking * steps)
    assert at_pause[:1] == ([while_asking] if while_asking < steps else [])
    assert len(at_pause) <= 101
    assert not student.training


def test_driving_hands_no_pause_to_the_institutions() -> None:
    doors = Doors()  # whose `put` takes none
    distilled, _ = run(cudfkd(), Plan(20, 10, steps=50, student_batch=4, asking=0.0), doors)
    assert distilled.student_steps == 50
    assert len(doors.requests) == 2


# --- easy to hard


def test_a_sample_beyond_the_pace_teaches_nothing() -> None:
    plan = Plan(40, 10, steps=8, student_batch=8)
    before = linear(99)
    for pace, moved in ((1e-9, False), (1e9, True)):
        method = cudfkd(curriculum="hard", pace_start=pace, pace_stop=pace)
        distilled, told = run(method, plan)
        assert set(facts(told, "trained", "weight")) == {float(moved)}
        for one, other in zip(distilled.student.parameters(), before.parameters(), strict=True):
            assert torch.equal(one, other) != moved


@pytest.mark.parametrize("curriculum", ["log", "none"])
def test_the_ramp_is_there_with_and_without_the_students_curriculum(curriculum: str) -> None:
    plan = Plan(160, 10, steps=40, student_batch=8)
    _, told = run(mixed("pull_back", curriculum=curriculum), plan)
    for progress in told:
        if progress.kind == "trained":
            done = progress.facts["done"]
            assert progress.facts["hardness"] == pytest.approx(min(max((done - 0.25) * 2, 0), 1))
    weights = facts(told, "trained", "weight")
    assert (set(weights) == {1.0}) == (curriculum == "none")


def test_without_a_curriculum_the_generator_is_still_hardened(
    networks: dict[str, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = cudfkd("pull_back", latent=16, curriculum="none")
    steps = exact_run(one_process, method, networks, monkeypatch)
    for step in steps:
        assert apart(flat(step.taken), by_autograd(step, networks, method)) < 1e-5
    unhardened = [by_autograd(step, networks, method, "agreement") for step in steps]
    assert max(apart(flat(s.taken), u) for s, u in zip(steps, unhardened, strict=True)) > 1e-3
