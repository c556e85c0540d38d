"""Aggregation of several tasks: each as if it were all there is."""

import math

import pytest
import torch

from fedkd.aggregation.fixed_rule_aggregation import RuleAggregation
from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.aggregation.per_task_aggregation import PerTaskAggregation
from fedkd.aggregation.reliability.reliability_weighted import ReliabilityWeightedAggregation
from fedkd.aggregation.task_fusion import cards_of_task
from fedkd.core.interfaces import Record
from fedkd.core.source_types import Proposal
from fedkd.errors import SettingsError
from fedkd.protocol import Answers, Card, LabelSpaces, NamedTask, Reply, Signal, output_names_of

LOGITS = frozenset({Signal.LOGITS})
HOLE, ODD = NamedTask("hole", ("closed", "open", "two")), NamedTask("odd", ("even", "odd"))
PROPOSAL = Proposal(torch.empty(0), "pink")


def card(name: str, *tasks: NamedTask, counts: tuple[int, ...] | None = None) -> Card:
    size = len(output_names_of(tasks))
    return Card(name, size, (1, 8, 8), LOGITS, class_counts=counts, tasks=tasks)


NORTH = card("north", ODD, HOLE, counts=(30, 10, 5, 25, 10))
SOUTH = card("south", HOLE, counts=(20, 20, 20))
WEST = card("west", NamedTask("odd", ("odd", "even")), counts=(8, 12))
CARDS = (NORTH, SOUTH, WEST)
LABELS = LabelSpaces.of(CARDS)


def answers(count: int, seed: int = 0, cards: tuple[Card, ...] = CARDS) -> dict[str, Reply]:
    rng = torch.Generator().manual_seed(seed)
    return {
        c.name: Reply({Signal.LOGITS: 3 * torch.randn(count, c.classes, generator=rng)})
        for c in cards
    }


def by_hand(heard: Answers, rule: str = "auto") -> torch.Tensor:
    """Each task fused over those who have it, in the order of the union."""
    hole, odd = (cards_of_task(CARDS, name) for name in ("hole", "odd"))
    own = {name: reply.signals[Signal.LOGITS] for name, reply in heard.items()}
    places = {"hole": {"north": slice(2, 5), "south": slice(0, 3)}}
    places["odd"] = {"north": slice(0, 2), "west": slice(0, 2)}
    parts = []
    for name, cards in (("hole", hole), ("odd", odd)):
        logits = {
            who: {Signal.LOGITS: own[who][:, at]} for who, at in places[name].items() if who in own
        }
        parts.append(build_fusion(rule, cards)(logits)[Signal.LOGITS])
    return torch.cat(parts, 1)


@pytest.mark.parametrize("rule", ["auto", "mean_probabilities", "mean_logits"])
def test_each_task_is_fused_by_itself(rule: str) -> None:
    heard = answers(7)
    fused = build_fusion(rule, CARDS).of(heard)[Signal.LOGITS]
    assert torch.allclose(fused, by_hand(heard, rule))
    assert fused.shape == (7, 5)
    other = {**heard, "west": answers(7, seed=5)["west"]}  # who has nothing to say of holes
    assert torch.equal(build_fusion(rule, CARDS).of(other)[Signal.LOGITS][:, :3], fused[:, :3])


def test_cards_of_a_task_are_those_of_classes() -> None:
    north, south = cards_of_task(CARDS, "hole")
    assert (north.class_names, north.class_counts) == (HOLE.class_names, (5, 25, 10))
    assert (north.classes, north.tasks, south.name) == (3, (), "south")


def test_a_task_that_nobody_answered_is_unknown() -> None:
    heard = {"west": answers(4)["west"]}
    fused = build_fusion("auto", CARDS).of(heard)[Signal.LOGITS]
    assert fused[:, :3].isnan().all()
    assert fused[:, 3:].isfinite().all()


def test_a_prior_of_shares_is_of_one_task() -> None:
    with pytest.raises(SettingsError, match="several tasks"):
        build_fusion("auto", CARDS, (0.2,) * 5)


def aggregation(record: Record | None = None, rule: str = "auto") -> PerTaskAggregation:
    def of_task(own: Record) -> RuleAggregation:
        if rule != "auto":
            return RuleAggregation(rule, None, silence=math.nan)
        return ReliabilityWeightedAggregation(rule, None, own, silence=math.nan)

    return PerTaskAggregation(LABELS.tasks, of_task, rule, record=record)


def heard(parts: PerTaskAggregation, said: Answers) -> None:
    parts.fusion(CARDS)
    parts.hear(said, LABELS, None, PROPOSAL)


def test_an_excluded_institution_is_fused_out_of_its_tasks_alone() -> None:
    parts, first, second = aggregation(), answers(5), answers(4, seed=1)
    heard(parts, first)
    heard(parts, {"south": second["south"]})  # of whom the others were away
    targets = parts.exclude({"south"}, CARDS)
    assert targets is not None
    alone = {n: first[n] for n in ("north", "west")}
    assert torch.allclose(targets[:5], by_hand(alone), atol=1e-2)  # kept in half precision
    assert targets[5:].isnan().all()
    again = parts.exclude({"north"}, CARDS)
    assert again is not None
    assert again[:, :3].isnan().all()
    assert again[:5, 3:].isfinite().all()
    heard(parts, {"west": answers(2, seed=2)["west"]})
    more = parts.exclude(set(), CARDS)
    assert more is not None
    assert more.shape == (11, 5)


def test_it_goes_on_from_its_state() -> None:
    parts, other = aggregation(), aggregation()
    heard(parts, answers(5))
    heard(parts, {"west": answers(3, seed=1)["west"]})
    other.restore(parts.state())
    for each in (parts, other):
        heard(each, answers(4, seed=2))
    one, two = parts.exclude({"south"}, CARDS), other.exclude({"south"}, CARDS)
    assert one is not None
    assert two is not None
    assert torch.equal(one.isnan(), two.isnan())
    assert torch.equal(one.nan_to_num(), two.nan_to_num())


def test_a_liar_in_one_task_is_left_out_there_and_recorded_once() -> None:
    cards = tuple(card(f"i{k}", HOLE, ODD) for k in range(5))
    labels, events = LabelSpaces.of(cards), list[tuple[str, dict[str, object]]]()
    rng = torch.Generator().manual_seed(0)
    truth = 4 * torch.randn(600, 5, generator=rng)
    said = {}
    for k, each in enumerate(cards):
        own = truth + torch.randn(600, 5, generator=rng)
        if k == 0:
            own[:, :3] = -own[:, :3]
        said[each.name] = Reply({Signal.LOGITS: own})

    def of_task(own: Record) -> RuleAggregation:
        return ReliabilityWeightedAggregation("auto", None, own, silence=math.nan)

    parts = PerTaskAggregation(
        labels.tasks,
        of_task,
        "auto",
        record=lambda kind, **facts: events.append((kind, facts)),
    )
    parts.fusion(cards)
    parts.hear(said, labels, None, PROPOSAL)
    targets = parts.improve(rng)
    assert targets is not None
    assert [kind for kind, _ in events] == ["reliability"]
    left_out = events[0][1]["left_out"]
    assert isinstance(left_out, dict)
    assert list(left_out) == ["i0, hole"]
    honest = {n: r for n, r in said.items() if n != "i0"}
    fused = build_fusion("auto", cards).of(honest)[Signal.LOGITS]
    assert torch.equal(targets[:, :3].argmax(1), fused[:, :3].argmax(1))
