"""Learned ensemble weights, against Co-Boosting's formulas."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fedkd.aggregation.fusion_rules import weighted_mean
from fedkd.aggregation.learned_weights import LearnedWeights, WeightedAggregation
from fedkd.core import Bank, Plan, Progress, Proposal
from fedkd.errors import SettingsError
from fedkd.loop import distil, drive
from fedkd.methods import co_boosting
from fedkd.models import InProcess
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Card, LabelSpaces, Reply, Signal
from fedkd.server.report.records.run_folder import RunFolder
from tests.support.contexts import Recorded, context_of

LOGITS, K = Signal.LOGITS, 3
SHAPE = (1, 4, 4)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def replies(**logits: Tensor) -> Answers:
    return {name: Reply({LOGITS: own}) for name, own in logits.items()}


def loss(logits: dict[str, Tensor], weights: dict[str, float], labels: Tensor) -> float:
    """Cross-entropy of sum w z / sum w, without tensors."""
    total = 0.0
    for i, y in enumerate(labels.tolist()):
        mean = [
            sum(weights[n] * float(z[i, c]) for n, z in logits.items()) / sum(weights.values())
            for c in range(K)
        ]
        total -= mean[y] - math.log(sum(math.exp(m) for m in mean))
    return total / len(labels)


def test_a_weight_moves_against_the_sign_of_its_slope_and_stays_between_0_and_1() -> None:
    logits = {n: 2 * torch.randn(6, K, generator=rng(i)) for i, n in enumerate("abc")}
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    weights = WeightedAggregation(LearnedWeights(0.02, 0.5), None)
    weights.of("abc")
    weights.keep(logits, None, labels)
    expected = dict.fromkeys("abc", 1 / 3)
    for times in (1, 2, 3):
        weights.learn(rng(9))
        slopes = {
            n: loss(logits, {**expected, n: expected[n] + 1e-4}, labels)
            - loss(logits, {**expected, n: expected[n] - 1e-4}, labels)
            for n in "abc"
        }
        step = 0.02 * 0.5**times
        expected = {n: w - math.copysign(step, slopes[n]) for n, w in expected.items()}
        assert dict(weights.weights) == pytest.approx(expected, abs=1e-6)
    steep = WeightedAggregation(LearnedWeights(0.9, 1.0), None)
    steep.of("abc")
    steep.keep(logits, None, labels)
    for _ in range(3):
        steep.learn(rng(9))
        assert all(0.0 <= w <= 1.0 for w in steep.weights.values())


def test_who_knows_comes_to_weigh_more_than_who_does_not() -> None:
    labels = torch.arange(60) % K
    logits = {"wise": 4.0 * torch.eye(K)[labels], "wrong": 4.0 * torch.eye(K)[(labels + 1) % K]}
    weights = WeightedAggregation(LearnedWeights(0.02, 0.99, batch=10), None)
    weights.of(["wise", "wrong"])
    weights.keep(logits, None, labels)
    for _ in range(10):
        weights.learn(rng(0))
    assert weights.weights["wise"] > weights.weights["wrong"] == 0.0


def test_samples_without_labels_teach_no_weight() -> None:
    weights = WeightedAggregation(LearnedWeights(0.1, 1.0), None)
    weights.of("ab")
    weights.keep({n: torch.randn(4, K) for n in "ab"}, None, None)
    weights.learn(rng(0))
    assert dict(weights.weights) == {"a": 0.5, "b": 0.5}


def test_who_is_away_weighs_nothing_and_who_joins_begins_at_a_share() -> None:
    a, b, c = (torch.randn(2, K, generator=rng(i)) for i in range(3))
    weights = WeightedAggregation(LearnedWeights(0.1, 1.0), None)
    weights.of("ab")
    weights.weights |= {"a": 0.9, "b": 0.3}
    weights.keep({"a": a, "b": b}, None, None)
    weights.keep({"a": a}, None, None)
    assert weights.of("abc")["c"] == pytest.approx(1 / 3)
    weights.keep({"c": c, "b": b}, torch.tensor([True, False]), None)
    both = (0.9 * a + 0.3 * b) / 1.2
    late = (c / 3 + 0.3 * b)[:1] / (1 / 3 + 0.3)
    assert torch.allclose(weights.targets(), torch.cat([both, a, late]), atol=1e-6)
    weights.weights |= dict.fromkeys("abc", 0.0)
    assert torch.allclose(weights.targets()[:2], (a + b) / 2)
    assert torch.allclose(weighted_mean({"a": a, "b": b}, weights.weights), (a + b) / 2)
    again = WeightedAggregation(LearnedWeights(0.1, 1.0), None)
    again.restore(weights.state())
    assert torch.equal(again.targets(), weights.targets())


@pytest.mark.parametrize("capacity", [None, 7])
def test_what_the_bank_has_is_fused_anew_by_new_weights(capacity: int | None) -> None:
    orders = {"a": ("x", "y", "z"), "b": ("z", "x", "y")}
    cards = [
        Card(name, K, SHAPE, frozenset({LOGITS}), True, class_names=orders[name]) for name in "ab"
    ]
    context = context_of(nn.Linear(1, 1), SHAPE, K, plan=Plan(100, 3, capacity=capacity))
    aggregation, labels = co_boosting().aggregation.build(context), LabelSpaces.of(cards)
    bank, asked = Bank(capacity), list[Tensor]()
    released: dict[str, list[Tensor]] = {n: [] for n in "ab"}
    for i in range(5):
        images = torch.randint(0, 256, (3, *SHAPE), generator=rng(i), dtype=torch.uint8)
        logits = {n: torch.randn(3, K, generator=rng(10 * i + j)) for j, n in enumerate("ab")}
        answers = replies(a=logits["a"], b=logits["b"][:, [2, 0, 1]])
        target = aggregation.fusion(cards).of(answers)[LOGITS]
        assert torch.allclose(target, (logits["a"] + logits["b"]) / 2, atol=1e-6)
        bank.add(images, target)
        proposal = Proposal(images, "generator", labels=torch.tensor([0, 1, 2]))
        aggregation.hear(answers, labels, None, proposal)
        asked.append(images)
        for n in "ab":
            released[n].append(logits[n])
    targets = aggregation.improve(rng(0))
    assert targets is not None
    bank.retarget(targets)
    assert isinstance(context.record, Recorded)
    ((kind, facts),) = context.record.events
    weights = facts["weights"]
    assert (kind, set(weights)) == ("weighed", {"a", "b"})
    assert weights["a"] != weights["b"]
    a, b = (torch.cat(released[n])[-(capacity or 15) :] for n in "ab")
    images, targets = bank.history()
    assert torch.equal(images, torch.cat(asked)[-(capacity or 15) :])
    expected = (weights["a"] * a + weights["b"] * b) / sum(weights.values())
    assert torch.allclose(targets, expected, atol=1e-6)
    assert aggregation.improve(rng(1)) is None  # until there are labels again


def test_answers_without_labels_are_kept_and_make_no_weights_due() -> None:
    cards = [Card(name, K, SHAPE, frozenset({LOGITS}), True) for name in "ab"]
    aggregation = WeightedAggregation(LearnedWeights(0.1, 1.0), None)
    aggregation.fusion(cards)
    images = torch.zeros(4, *SHAPE, dtype=torch.uint8)
    logits = {n: torch.randn(4, K, generator=rng(i)) for i, n in enumerate("ab")}
    selected = torch.tensor([True, False, True, True])
    proposal = Proposal(images, "noise")
    aggregation.hear(replies(**logits), LabelSpaces.of(cards), selected, proposal)
    assert aggregation.improve(rng(0)) is None
    mean = (logits["a"] + logits["b"])[selected] / 2
    assert torch.allclose(aggregation.targets(), mean, atol=1e-6)


def test_it_weighs_one_rule_and_refuses_every_other() -> None:
    settings = LearnedWeights(0.1, 1.0)
    assert settings.rule_for("auto") == settings.rule_for("mean_logits") == "mean_logits"
    with pytest.raises(SettingsError, match=r"leave questions\.rule at auto"):
        settings.with_rule("log_linear_pool")


def test_a_run_records_weights_that_rise_and_fall_and_asks_twice_for_each_image(
    tmp_path: Path,
) -> None:
    networks: dict[str, nn.Module] = {}
    for index, name in enumerate("ab"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(index)
            networks[name] = nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    teachers, folder = InProcess(networks, SHAPE, K), RunFolder.create(tmp_path / "run")
    events: list[Progress] = []

    def watch(progress: Progress) -> None:
        events.append(progress)
        folder.append_event({"kind": progress.kind, **progress.facts})

    method = co_boosting(steps_per_batch=2, latent=8)
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    plan = Plan(96, 8, 12, student_batch=8)
    loop = distil(student, method, teachers.cards, plan, build_priors("noise"), watch=watch)
    distilled = drive(loop, teachers.answer)
    assert (distilled.asked, distilled.generator_steps, distilled.pulled_back) == (96, 6, 96)
    origins = [p.facts["origin"] for p in events if p.kind == "asked"]
    assert origins == ["generator", "neighbours"] * 6
    weights = [p.facts["weights"] for p in events if p.kind == "weighed"]
    assert len(weights) == 3
    assert len({str(each) for each in weights}) == 3


def test_where_everybody_who_answered_is_excluded_rows_stay_and_others_join() -> None:
    weights = WeightedAggregation(LearnedWeights(0.02, 0.5), None)
    weights.of("a")
    weights.keep({"a": torch.ones(4, K)}, None, torch.zeros(4, dtype=torch.long))
    targets = weights.exclude(["a"], [])
    assert targets is not None
    assert torch.equal(targets, torch.zeros(4, K))
    again = WeightedAggregation(LearnedWeights(0.02, 0.5), None)
    again.restore(weights.state())
    for each in (weights, again):
        assert torch.equal(each.targets(), targets)
        each.of("ab")
        each.keep({"b": torch.ones(2, K)}, None, torch.ones(2, dtype=torch.long))
        each.learn(rng(0))
        assert torch.equal(each.targets(), torch.cat([targets, torch.ones(2, K)]))
