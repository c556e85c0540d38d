"""Weights of institutions and neighbours of images, against Co-Boosting's formulas."""

import math
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from fedkd.aggregation.targets import Hearing
from torch import Tensor, nn

from fedkd.aggregation.fusion_rules import build_fusion, weighted_mean
from fedkd.aggregation.learned_weights import Weights
from fedkd.loop import Plan, Progress, distil, drive
from fedkd.methods import co_boosting
from fedkd.methods.method import Boosting
from fedkd.models import InProcess
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Card, LabelSpaces, Reply, Request, Signal, as_float
from fedkd.server.report.run_folder import RunFolder
from fedkd.synthesis import Drawn
from fedkd.synthesis.output_diversified_sampling import neighbours_of
from fedkd.synthesis.trained_generator_source import Heard

LOGITS, K = Signal.LOGITS, 3
SHAPE = (1, 4, 4)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def replies(**said: Tensor) -> Answers:
    return {name: Reply({LOGITS: logits}) for name, logits in said.items()}


def loss(said: dict[str, Tensor], weights: dict[str, float], wanted: Tensor) -> float:
    """Cross-entropy of sum w z / sum w, without tensors."""
    total = 0.0
    for i, y in enumerate(wanted.tolist()):
        mean = [
            sum(weights[n] * float(z[i, c]) for n, z in said.items()) / sum(weights.values())
            for c in range(K)
        ]
        total -= mean[y] - math.log(sum(math.exp(m) for m in mean))
    return total / len(wanted)


def test_a_weight_moves_against_the_sign_of_its_slope_and_stays_between_0_and_1() -> None:
    said = {n: 2 * torch.randn(6, K, generator=rng(i)) for i, n in enumerate("abc")}
    wanted = torch.tensor([0, 1, 2, 0, 1, 2])
    weights = Weights(Boosting(0.02, 0.5), None)
    weights.of("abc")
    weights.hear(said, None, wanted)
    expected = dict.fromkeys("abc", 1 / 3)
    for epoch in (1, 2, 3):
        weights.learn(rng(9))
        slopes = {
            n: loss(said, {**expected, n: expected[n] + 1e-4}, wanted)
            - loss(said, {**expected, n: expected[n] - 1e-4}, wanted)
            for n in "abc"
        }
        step = 0.02 * 0.5**epoch
        expected = {n: w - math.copysign(step, slopes[n]) for n, w in expected.items()}
        assert dict(weights.weights) == pytest.approx(expected, abs=1e-6)
    steep = Weights(Boosting(0.9, 1.0), None)
    steep.of("abc")
    steep.hear(said, None, wanted)
    for _ in range(3):
        steep.learn(rng(9))
        assert all(0.0 <= w <= 1.0 for w in steep.weights.values())


def test_who_knows_comes_to_weigh_more_than_who_does_not() -> None:
    wanted = torch.arange(60) % K
    said = {"wise": 4.0 * torch.eye(K)[wanted], "wrong": 4.0 * torch.eye(K)[(wanted + 1) % K]}
    weights = Weights(Boosting(0.02, 0.99, batch=10), None)
    weights.of(["wise", "wrong"])
    weights.hear(said, None, wanted)
    for _ in range(10):
        weights.learn(rng(0))
    assert weights.weights["wise"] > weights.weights["wrong"] == 0.0


def test_images_that_nobody_wanted_to_show_anything_teach_no_weight() -> None:
    weights = Weights(Boosting(0.1, 1.0), None)
    weights.of("ab")
    weights.hear({n: torch.randn(4, K) for n in "ab"}, None, None)
    weights.learn(rng(0))
    assert dict(weights.weights) == {"a": 0.5, "b": 0.5}


def test_who_is_away_weighs_nothing_and_who_joins_begins_at_a_share() -> None:
    a, b, c = (torch.randn(2, K, generator=rng(i)) for i in range(3))
    weights = Weights(Boosting(0.1, 1.0), None)
    weights.of("ab")
    weights.weights |= {"a": 0.9, "b": 0.3}
    weights.hear({"a": a, "b": b}, None, None)
    weights.hear({"a": a}, None, None)
    assert weights.of("abc")["c"] == pytest.approx(1 / 3)
    weights.hear({"c": c, "b": b}, torch.tensor([True, False]), None)
    both = (0.9 * a + 0.3 * b) / 1.2
    late = (c / 3 + 0.3 * b)[:1] / (1 / 3 + 0.3)
    assert torch.allclose(weights.targets(), torch.cat([both, a, late]), atol=1e-6)
    weights.weights |= dict.fromkeys("abc", 0.0)
    assert torch.allclose(weights.targets()[:2], (a + b) / 2)
    assert torch.allclose(weighted_mean({"a": a, "b": b}, weights.weights), (a + b) / 2)
    again = Weights(Boosting(0.1, 1.0), None)
    again.restore(weights.state())
    assert torch.equal(again.targets(), weights.targets())


@pytest.mark.parametrize("capacity", [None, 7])
def test_what_the_bank_has_is_fused_anew_by_new_weights(capacity: int | None) -> None:
    orders = {"a": ("x", "y", "z"), "b": ("z", "x", "y")}
    cards = [
        Card(name, K, SHAPE, frozenset({LOGITS}), True, class_names=orders[name]) for name in "ab"
    ]
    hearing = Hearing(co_boosting(), Plan(100, 3, capacity=capacity), cards)
    kept, told = [], {n: [] for n in "ab"}
    for i in range(5):
        images = torch.randint(0, 256, (3, *SHAPE), generator=rng(i), dtype=torch.uint8)
        said = {n: torch.randn(3, K, generator=rng(10 * i + j)) for j, n in enumerate("ab")}
        own = {"a": said["a"], "b": said["b"][:, [2, 0, 1]]}
        target, _ = hearing.hear(images, "x", replies(**own), torch.tensor([0, 1, 2]))
        assert torch.allclose(target, (said["a"] + said["b"]) / 2, atol=1e-6)
        kept.append(images)
        for n in "ab":
            told[n].append(said[n])
    weights = hearing.weigh(rng(0))
    assert set(weights) == {"a", "b"}
    assert weights["a"] != weights["b"]
    a, b = (torch.cat(told[n])[-(capacity or 15) :] for n in "ab")
    images, targets = hearing.bank.history()
    assert torch.equal(images, torch.cat(kept)[-(capacity or 15) :])
    expected = (weights["a"] * a + weights["b"] * b) / sum(weights.values())
    assert torch.allclose(targets, expected, atol=1e-6)


def drained(requests: Generator[Request, Answers, Tensor], teachers: InProcess) -> Tensor:
    try:
        request = next(requests)
        while True:
            assert not isinstance(request, Ask)
            request = requests.send(teachers.answer(request))
    except StopIteration as stop:
        return stop.value


def test_a_neighbour_lies_one_step_along_the_slope_of_a_random_direction() -> None:
    def network(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, K))

    networks = {name: network(i) for i, name in enumerate("ab")}
    teachers = InProcess(networks, SHAPE, K)
    images = torch.randint(0, 256, (5, *SHAPE), generator=rng(3), dtype=torch.uint8)
    answers = teachers.answer(Ask(images, exact=True))
    fused = build_fusion("mean_logits", teachers.cards)
    heard = Heard(
        *(Drawn(as_float(images), "x"), images, answers, None),
        *(LabelSpaces.of(teachers.cards), fused, 0.0),
    )
    moved = drained(neighbours_of(heard, co_boosting(), networks["a"], rng(4)), teachers)
    x = as_float(images).requires_grad_()
    u = 2 * torch.rand((5, K), generator=rng(4)) - 1
    mean = (networks["a"](x) + networks["b"](x)) / 2
    (u * (mean / 4).softmax(1)).sum().backward()
    assert x.grad is not None
    expected = (images.float() + 8 * x.grad.sign()).clamp(0, 255)
    assert torch.equal(moved.float(), expected)


def test_a_run_records_weights_that_rise_and_fall_and_asks_twice_for_each_image(
    tmp_path: Path,
) -> None:
    networks: dict[str, nn.Module] = {}
    for index, name in enumerate("ab"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(index)
            networks[name] = nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    teachers, folder = InProcess(networks, SHAPE, K), RunFolder.create(tmp_path / "run")
    told: list[Progress] = []

    def watch(progress: Progress) -> None:
        told.append(progress)
        folder.append_event({"kind": progress.kind, **progress.facts})

    method, student = co_boosting(epoch=2, latent=8), nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    plan = Plan(96, 8, 12, student_batch=8)
    loop = distil(student, method, teachers.cards, plan, build_priors("noise"), watch=watch)
    distilled = drive(loop, teachers.answer)
    assert (distilled.asked, distilled.generator_steps, distilled.pulled_back) == (96, 6, 96)
    origins = [p.facts["origin"] for p in told if p.kind == "asked"]
    assert origins == ["generator", "neighbours"] * 6
    weights = [p.facts["weights"] for p in told if p.kind == "weighed"]
    assert len(weights) == 3
    assert len({str(each) for each in weights}) == 3
