"""Aggregation that leaves out liars while a run goes on, and says so."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.aggregation import ByRule
from fedkd.aggregation.banked_logits import BankedLogits
from fedkd.aggregation.fixed_rule_aggregation import RuleAggregation
from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.aggregation.fusion_rules import RuleFusion
from fedkd.aggregation.reliability.class_reliability import Reliability
from fedkd.aggregation.reliability.reliability_weighted import ReliabilityWeightedAggregation
from fedkd.core.source_types import Proposal
from fedkd.protocol import Card, LabelSpaces, Reply, Signal
from tests.support.contexts import context_of

CLASSES = 5
NAMES = tuple("abcdef")
BATCH = 64


def card(name: str, counts: tuple[int, ...] | None = (50,) * CLASSES) -> Card:
    return Card(name, CLASSES, (1, 4, 4), frozenset({Signal.LOGITS}), False, None, 512, counts)


CARDS = [card(name) for name in NAMES]
ALL = LabelSpaces.of(CARDS)


class Members:
    """Honest answers of one truth with noise, and whoever lies."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = torch.Generator().manual_seed(seed)
        self.truths: list[Tensor] = []

    def answer(self, *names: str, lying: tuple[str, ...] = ()) -> dict[str, Reply]:
        truth = 3 * torch.randn(BATCH, CLASSES, generator=self.rng)
        self.truths.append(truth)
        said = {n: truth + torch.randn(BATCH, CLASSES, generator=self.rng) for n in names}
        return {
            n: Reply({Signal.LOGITS: (-z if n in lying else z).half().float()})
            for n, z in said.items()
        }


def ask(
    aggregation: ReliabilityWeightedAggregation,
    answers: dict[str, Reply],
    cards: list[Card] = CARDS,
    selected: Tensor | None = None,
) -> Tensor | None:
    """One question, as the loop puts it; the new targets, if there are any."""
    aggregation.fusion(cards).of(answers)
    proposal = Proposal(torch.zeros(BATCH, 1, 4, 4), "noise")
    aggregation.hear(answers, LabelSpaces.of(cards), selected, proposal)
    return aggregation.improve(torch.Generator())


def part(capacity: int | None = None, events: list[Any] | None = None) -> Any:
    heard = [] if events is None else events
    return ReliabilityWeightedAggregation(
        "auto", capacity, lambda kind, **facts: heard.append((kind, facts))
    )


def test_auto_is_judged_and_a_rule_by_name_is_not() -> None:
    context = context_of(torch.nn.Identity(), (1, 4, 4), CLASSES)
    assert isinstance(ByRule().build(context), ReliabilityWeightedAggregation)
    assert not isinstance(ByRule("log_linear_pool").build(context), ReliabilityWeightedAggregation)


def test_with_honest_members_targets_stay_what_the_rule_says() -> None:
    aggregation, members = part(), Members()
    assert all(ask(aggregation, members.answer(*NAMES)) is None for _ in range(12))
    assert aggregation.fusion(CARDS) == build_fusion("auto", CARDS)


def test_a_liar_is_fused_out_of_all_that_is_banked() -> None:
    events: list[Any] = []
    aggregation, members, banked = part(events=events), Members(), []
    for _ in range(8):
        answers = members.answer(*NAMES, lying=("c",))
        banked.append(answers)
        if (targets := ask(aggregation, answers)) is not None:
            break
    honest = build_fusion("log_linear_pool", [c for c in CARDS if c.name != "c"])
    expected = torch.cat(
        [honest.of({n: r for n, r in each.items() if n != "c"})[Signal.LOGITS] for each in banked]
    )
    assert targets is not None
    torch.testing.assert_close(targets, expected)
    (kind, facts) = events[-1]
    assert kind == "reliability"
    assert facts["weight"]["c"] == 0
    assert facts["left_out"] == {"c": list(ALL.names)}
    assert facts["agreement"]["a"] > 0.5 > 0 > facts["agreement"]["c"]


def test_a_sleeper_is_left_out_once_it_turns_and_not_before() -> None:
    aggregation, members = part(), Members()
    for _ in range(24):
        ask(aggregation, members.answer(*NAMES))
    assert aggregation.fusion(CARDS).trusted == {}
    for _ in range(16):
        ask(aggregation, members.answer(*NAMES, lying=("e",)))
    assert not any(aggregation.fusion(CARDS).trusted["e"])
    assert all(all(own) for n, own in aggregation.fusion(CARDS).trusted.items() if n != "e")


def test_who_is_away_or_joins_late_is_judged_by_what_it_answered() -> None:
    aggregation, members = part(), Members()
    for _ in range(10):
        ask(aggregation, members.answer("a", "b", "c", "d"), CARDS[:4])
    for _ in range(40):
        ask(aggregation, members.answer(*"bcdef", lying=("f",)), CARDS)
    trusted = aggregation.fusion(CARDS).trusted
    assert not any(trusted["f"])
    assert all(all(trusted.get(n, (True,))) for n in "abcde")
    targets = aggregation.targets()
    first = build_fusion("auto", CARDS)
    kept = aggregation._kept.rows(torch.arange(BATCH))
    known = {n: {Signal.LOGITS: kept[n]} for n in "abcd"}
    torch.testing.assert_close(targets[:BATCH], first(known)[Signal.LOGITS])


def test_silent_counts_and_two_members_are_fused_as_before() -> None:
    silent = [card(name, None) for name in NAMES]
    aggregation, members = part(), Members()
    for _ in range(8):
        ask(aggregation, members.answer(*NAMES, lying=("b",)), silent)
    fusion = aggregation.fusion(silent)
    assert fusion.rule == "mean_probabilities"
    assert not any(fusion.trusted["b"])
    answers = members.answer(*NAMES, lying=("b",))
    others = {n: r for n, r in answers.items() if n != "b"}
    blind = build_fusion("mean_probabilities", silent)
    assert torch.equal(fusion.of(answers)[Signal.LOGITS], blind.of(others)[Signal.LOGITS])

    two = part()
    assert all(ask(two, members.answer("a", "b", lying=("b",)), CARDS[:2]) is None for _ in "1234")


def test_label_sets_are_judged_in_the_classes_that_both_have() -> None:
    few = replace(card("f"), classes=3, class_counts=(50,) * 3, class_names=("0", "1", "2"))
    named = [replace(c, class_names=tuple(map(str, range(CLASSES)))) for c in CARDS[:5]]
    cards, members, aggregation = [*named, few], Members(), part()
    for _ in range(8):
        answers = members.answer(*NAMES, lying=("d",))
        answers["f"] = Reply({Signal.LOGITS: answers["f"].signals[Signal.LOGITS][:, :3]})
        targets = ask(aggregation, answers, cards)
    trusted = aggregation.fusion(cards).trusted
    assert not any(trusted["d"])
    assert trusted["f"] == (True, True, True)
    assert targets is None or targets.shape[1] == CLASSES


@pytest.mark.parametrize("capacity", [None, 300])
def test_set_back_it_goes_on_as_the_other_did(capacity: int | None) -> None:
    one, members = part(capacity), Members()
    for _ in range(9):
        ask(one, members.answer(*NAMES, lying=("c",)))
    state = one.state()
    other = part(capacity)
    other.restore(state)
    for _ in range(9):
        answers = members.answer(*NAMES, lying=("c",))
        first, second = ask(one, answers), ask(other, answers)
        assert (first is None) == (second is None)
        assert first is None or second is None or torch.equal(first, second)
    assert one.fusion(CARDS) == other.fusion(CARDS)


@pytest.mark.parametrize("rule", ["auto", "mean_probabilities", "mean_logits"])
def test_who_is_excluded_is_fused_out_as_if_it_had_never_answered(rule: str) -> None:
    make = ReliabilityWeightedAggregation if rule == "auto" else RuleAggregation
    with_c, without_c, members = make(rule, None), make(rule, None), Members()
    for _ in range(8):
        answers = members.answer(*NAMES)
        ask(with_c, answers)
        ask(without_c, {n: reply for n, reply in answers.items() if n != "c"})
    targets = with_c.exclude(["c"], CARDS)
    assert targets is not None
    torch.testing.assert_close(targets, without_c.targets())
    other = make(rule, None)
    other.restore(with_c.state())
    other.fusion(CARDS)
    assert torch.equal(other.targets(), targets)
    assert other.exclude(["c"], CARDS) is not None  # again, and nothing changes
    assert torch.equal(other.targets(), targets)


def test_where_only_the_excluded_answered_nothing_is_known() -> None:
    aggregation, members = RuleAggregation("mean_probabilities", None), Members()
    assert aggregation.exclude(["a"], CARDS) is None  # nothing is banked
    ask(aggregation, members.answer("a"))
    ask(aggregation, members.answer("a", "b"))
    targets = aggregation.exclude(["a"], CARDS)
    assert targets is not None
    assert torch.equal(targets[:BATCH], torch.zeros(BATCH, CLASSES))
    assert bool((targets[BATCH:] != 0).all())
    nobody = aggregation.exclude(["b"], CARDS)
    assert nobody is not None, "what the excluded answered may not stay the target"
    assert torch.equal(nobody, torch.zeros(2 * BATCH, CLASSES))
    again = RuleAggregation("mean_probabilities", None)
    again.restore(aggregation.state())
    for each in (aggregation, again):
        ask(each, members.answer("c"))
        targets = each.targets()
        assert torch.equal(targets[: 2 * BATCH], nobody)
        assert len(targets) == 3 * BATCH
        assert bool((targets[2 * BATCH :] != 0).all())


def test_an_exclusion_forgets_what_excluded_answers_have_proven() -> None:
    aggregation, members = ReliabilityWeightedAggregation("auto", None), Members()
    for _ in range(12):
        ask(aggregation, members.answer(*NAMES))
    aggregation._trusted = {"a": (False,) * CLASSES}
    aggregation._shown = {"a": (0.0,) * CLASSES}
    aggregation.exclude([n for n in NAMES if n != "a"], CARDS)
    assert not aggregation._trusted, "nobody is left who could accuse it"
    assert not aggregation._shown


def test_only_what_the_bank_keeps_is_kept() -> None:
    kept = BankedLogits(3)
    rows = torch.arange(8.0).view(4, 2)
    kept.add({"a": rows}, torch.tensor([True, False, True, True]))
    kept.add({"b": rows[:1]}, None)
    assert kept.by_name["a"].isnan().tolist() == [[False] * 2, [False] * 2, [True] * 2]
    assert kept.by_name["a"][:2].tolist() == [[4, 5], [6, 7]]
    pieces = {tuple(there): at.tolist() for at, there in kept.by_presence("ab", 10)}
    assert pieces == {("a",): [0, 1], ("b",): [2]}
    assert next(iter(kept.by_presence("b", 10)))[1] == {}  # as if the other had never answered


def test_a_class_that_nobody_is_trusted_on_is_fused_of_what_all_say() -> None:
    counts = dict.fromkeys("ab", (50.0,) * CLASSES)
    nobody = dict.fromkeys("ab", (False, *[True] * (CLASSES - 1)))
    answers = Members().answer("a", "b")
    fused = RuleFusion("log_linear_pool", counts, trusted=nobody).of(answers)[Signal.LOGITS]
    plain = RuleFusion("log_linear_pool", counts).of(answers)[Signal.LOGITS]
    assert bool(fused.isfinite().all())
    assert float((fused.argmax(1) == plain.argmax(1)).float().mean()) > 0.9


def test_the_majority_of_the_latest_estimates_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = iter([1, 0, 1, 0, 0, 1, 1])

    def estimate(logits: Tensor, counts: Tensor, known: Tensor) -> Reliability:
        trusted = torch.ones_like(known)
        trusted[2, 4] = bool(next(verdicts))
        return Reliability(trusted, torch.ones(known.shape).double(), torch.zeros(len(logits)))

    module = "fedkd.aggregation.reliability.reliability_weighted"
    monkeypatch.setattr(f"{module}.estimate_reliability", estimate)
    aggregation, members = part(), Members()
    kept = []
    for _ in range(28):  # an estimate at each fourth
        ask(aggregation, members.answer(*NAMES))
        kept.append(aggregation.fusion(CARDS).trusted.get("c", (True,) * CLASSES)[4])
    assert kept[3::4] == [True, True, True, True, False, False, True]
    again = part()
    again.restore(aggregation.state())
    assert again.fusion(CARDS) == aggregation.fusion(CARDS)
    assert list(again._latest) == list(aggregation._latest)
