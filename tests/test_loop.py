"""The loop: exact through the wire, never over budget, never twice, the same from the same seed."""

import copy
import json
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from client.agent import Agent
from client.release import Door
from fedkd import loop as loop_module
from fedkd.ensemble import log_linear_pool
from fedkd.errors import NeedsError, QuorumLost, SettingsError
from fedkd.generators import Generator as ImageGenerator
from fedkd.gradients import GRADIENTS, as_unit
from fedkd.in_process import InProcess
from fedkd.loop import PAUSE, Distilled, Plan, Progress, distil, drive
from fedkd.methods import Method, cudfkd
from fedkd.models import Network, build
from fedkd.priors import Noise, Shape, priors
from fedkd.privacy.policy import Policy
from fedkd.signals import Answers, Ask, Card, PullBack, Reason, Refusal, Reply, Request, Signal
from fedkd.sources import Drawn, Generated
from fedkd.teacher import ModuleTeacher
from server.hub import Hub

LOGITS, BN_GAP = Signal.LOGITS, Signal.BN_GAP
OPEN = Policy(frozenset({LOGITS, BN_GAP}), pull_back=True, class_counts=True)
SOON = 20.0
Put = Callable[[Request], Answers]
"""Puts a request to the institutions."""


# --- teachers


K, SHAPE = 5, (1, 8, 8)
COUNTS = {"east": (40, 5, 0, 12, 3), "north": (0, 30, 9, 0, 21), "west": (7, 7, 60, 1, 0)}
"""Training images of each class, far from uniform."""


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decided(name: str, seed: int) -> Network:
    """A network with batch-norm statistics and decisions that differ among images."""
    network = build(name, K, SHAPE, seed).train()
    for batch in range(30):
        network(torch.rand(64, *SHAPE, generator=rng(100 * seed + batch)) ** (1 + seed))
    with torch.no_grad():
        network.head.weight *= 6
        said = network.eval()(torch.rand(256, *SHAPE, generator=rng(seed)) ** (1 + seed))
        network.head.bias -= said.mean(0)
    return network


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    return {name: decided("cnn", seed) for seed, name in enumerate(COUNTS)}


Road = Callable[[Mapping[str, Network]], AbstractContextManager[tuple[tuple[Card, ...], Put]]]


@contextmanager
def wire(networks: Mapping[str, Network]) -> Iterator[tuple[tuple[Card, ...], Put]]:
    """A hub, an agent in a thread for each institution, a door before each teacher."""
    with Hub("token") as hub:
        agents = []
        for name, network in networks.items():
            card = Card(name, K, SHAPE, OPEN.signals, True, class_counts=COUNTS[name])
            door = Door(OPEN, ModuleTeacher(network, K), card)
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
def one_process(networks: Mapping[str, Network]) -> Iterator[tuple[tuple[Card, ...], Put]]:
    at_hand = InProcess(networks, SHAPE, K, COUNTS)
    yield at_hand.cards, at_hand.answer


# --- the objective of the paper, differentiated in one piece


@dataclass
class Step:
    """All that a generator step depends on, and the gradient that it took."""

    generator: ImageGenerator
    student: nn.Module
    z: Tensor
    taken: dict[str, Tensor] = field(default_factory=dict)
    progress: float = math.nan


def tapped(steps: list[Step], student: nn.Module) -> type[Generated]:
    """The source that the loop uses, which also writes down every step."""

    class Tapped(Generated):
        def __init__(self, generator: ImageGenerator) -> None:
            super().__init__(generator)
            for name, parameter in generator.named_parameters():
                parameter.register_post_accumulate_grad_hook(
                    lambda p, name=name: steps[-1].taken.update({name: p.grad.clone()})
                )

        def draw(self, count: int, rng: torch.Generator) -> Drawn:
            again = torch.Generator().set_state(rng.get_state())
            before = copy.deepcopy(self.generator).train()
            z = torch.randn(count, before.latent, generator=again)
            steps.append(Step(before, copy.deepcopy(student).eval(), z))
            return super().draw(count, rng)

    return Tapped


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


TERMS = ("one_hot", "bn_gap", "class_balance", "agreement")


def by_autograd(
    step: Step, networks: Mapping[str, Network], gradient: str, without: str = "", rounding: bool = True
) -> Tensor:
    """d L_G / d generator of CuDFKD, in float64 and in one graph from the latents on."""
    bytes_ = (step.generator(step.z) * 255).round()
    generator, student = copy.deepcopy(step.generator).double(), step.student.double()
    teachers = {n: copy.deepcopy(networks[n]).double() for n in COUNTS}
    x = generator(step.z.double())
    pixels = x + (bytes_.double() / 255 - x).detach() if rounding else x
    s = student(pixels)
    said = torch.stack([teachers[n](pixels) for n in COUNTS])
    if gradient == "student":
        said = s.expand_as(said)
    if gradient == "straight_through":
        said = said.detach() + s - s.detach()
    t = log_linear_pool(said, torch.tensor(list(COUNTS.values())).double())
    p, q = (t / 3).softmax(1), (s / 3).softmax(1)
    mean = t.softmax(1).mean(0)
    alike = t.argmax(1) == s.argmax(1)
    assert bool(alike.any())
    terms = {
        "one_hot": -t.log_softmax(1).max(1).values.mean(),
        "bn_gap": torch.stack([gap(teachers[n], pixels) for n in COUNTS]).mean(),
        "class_balance": 20 * (mean * mean.log()).sum(),
        "agreement": -62
        * min(max((step.progress - 0.25) / 0.5, 0), 1)
        * (alike * 9 * (p * (p / q).log()).sum(1)).mean(),
    }
    if gradient != "pull_back":
        del terms["bn_gap"]
    torch.stack([value for name, value in terms.items() if name != without]).sum().backward()
    return flat({name: w.grad for name, w in generator.named_parameters()})


def flat(gradients: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].flatten().double() for name in sorted(gradients)])


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(
    ("road", "gradient"),
    [
        (wire, "pull_back"),
        (one_process, "pull_back"),
        (one_process, "straight_through"),
        (one_process, "student"),
    ],
)
def test_the_generators_gradient_is_that_of_autograd_in_one_piece(
    road: Road, gradient: str, networks: dict[str, Network], monkeypatch: pytest.MonkeyPatch
) -> None:
    student = decided("mlp", 7)
    steps: list[Step] = []
    monkeypatch.setattr(loop_module, "Generated", tapped(steps, student))

    def watch(progress: Progress) -> None:
        if progress.kind == "asked":
            steps[-1].progress = progress.facts["done"]

    weight = 1.0 if gradient == "pull_back" else 0.0
    method = cudfkd(gradient, bn_weight=weight, latent=16)
    plan = Plan(budget=24 * 5, batch=24, steps=10, student_batch=8, asking=1.0)
    with road(networks) as (cards, put):
        drive(distil(student, method, cards, plan, priors("pink"), seed=3, watch=watch), put)
    assert [step.progress for step in steps] == [0.0, 0.2, 0.4, 0.6, 0.8]
    for step in steps:
        print("FAR", far(flat(step.taken), by_autograd(step, networks, gradient)), far(flat(step.taken), by_autograd(step, networks, gradient, rounding=False)))
        assert far(flat(step.taken), by_autograd(step, networks, gradient)) < 1e-5
    # What would be seen if a term, its weight or the rounding to bytes were lost.
    for name in TERMS if gradient == "pull_back" else ():
        lost = by_autograd(steps[3], networks, gradient, without=name)
        print(name, far(flat(steps[3].taken), lost))
        assert far(flat(steps[3].taken), lost) > 1e-3
