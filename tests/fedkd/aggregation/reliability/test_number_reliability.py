"""Institutions that predict numbers: liars are left out, those who differ in scale are not."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.aggregation import ByRule
from fedkd.aggregation.number_fusion import huber
from fedkd.aggregation.reliability.number_reliability import estimate_number_reliability
from fedkd.aggregation.reliability.reliable_number_aggregation import ReliableNumberAggregation
from fedkd.core.source_types import Proposal
from fedkd.protocol import Card, LabelSpaces, Number, Reply, Signal
from fedkd.tasks import task_of
from tests.support.contexts import context_of

N, BATCH = 400, 64
LIES = {
    "inverted": lambda x: 1 - x,
    "constant": torch.ones_like,
    "random": lambda x: torch.rand(x.shape, generator=torch.Generator().manual_seed(9)),
}


def predictions(count: int, seed: int = 0, rows: int = N) -> Tensor:
    """(count, rows, 1), of one truth with noise."""
    rng = torch.Generator().manual_seed(seed)
    truth = 0.5 + 0.15 * torch.randn(rows, 1, generator=rng)
    return (truth + 0.1 * torch.randn(count, rows, 1, generator=rng)).clamp(0, 1)


def trusted(values: Tensor) -> list[bool]:
    known = torch.ones(len(values), 1, dtype=torch.bool)
    return [bool(own) for own in estimate_number_reliability(values, known).trusted[:, 0]]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("count", "liars"), [(3, 1), (5, 1), (5, 2)])
def test_a_minority_of_liars_is_left_out(lie: str, count: int, liars: int) -> None:
    values = predictions(count)
    values[:liars] = LIES[lie](values[:liars])
    assert trusted(values) == [False] * liars + [True] * (count - liars)


@given(st.floats(0.2, 3.0), st.floats(-0.3, 0.3), st.integers(0, 4))
def test_another_scale_or_an_offset_is_no_lie(scale: float, offset: float, seed: int) -> None:
    values = predictions(4, seed)
    values[0] = values[0] * scale + offset
    assert trusted(values) == [True] * 4


def test_nothing_is_concluded_of_two_of_noise_and_of_a_constant_truth() -> None:
    two = predictions(2)
    two[0] = 1 - two[0]
    assert trusted(two) == [True] * 2
    assert trusted(torch.rand(5, N, 1, generator=torch.Generator().manual_seed(1))) == [True] * 5
    flat = torch.full((4, N, 1), 0.4)
    flat[0] = predictions(1)[0]
    assert trusted(flat) == [True] * 4


def test_each_number_is_judged_among_those_who_predict_it() -> None:
    values = torch.cat([predictions(4), predictions(4, 1)], 2)
    values[0, :, 1] = 1 - values[0, :, 1]
    known = torch.ones(4, 2, dtype=torch.bool)
    known[3, 0] = False
    values[3, :, 0] = torch.nan
    found = estimate_number_reliability(values, known)
    assert found.trusted.tolist() == [[True, False], [True, True], [True, True], [False, True]]
    assert float(found.agreement[0]) < 0 < float(found.agreement[1:].min())


CARDS = [
    Card(name, 1, (1, 1, 2), frozenset({Signal.LOGITS}), numbers=(Number("y"),)) for name in "abcde"
]
LABELS = LabelSpaces.of(CARDS)


def ask(aggregation: ReliableNumberAggregation, seed: int) -> Tensor | None:
    """One question that "a" answers with the opposite; the new targets, if there are any."""
    values = predictions(5, seed, BATCH)
    values[0] = 1 - values[0]
    said = {c.name: Reply({Signal.LOGITS: own}) for c, own in zip(CARDS, values, strict=True)}
    aggregation.fusion(CARDS).of(said)
    aggregation.hear(said, LABELS, None, Proposal(torch.zeros(BATCH, 1, 1, 2), "uniform"))
    return aggregation.improve(torch.Generator())


def test_targets_are_fused_again_without_a_liar_also_after_a_restart() -> None:
    events: list[dict[str, object]] = []
    aggregation = ReliableNumberAggregation(
        None, lambda kind, **facts: events.append({"kind": kind, **facts})
    )
    changed = [ask(aggregation, seed) for seed in range(8)]
    assert [targets is not None for targets in changed] == [False] * 3 + [True] + [False] * 4
    honest = torch.cat([predictions(5, seed, BATCH)[1:] for seed in range(4)], 1)
    fused = huber(honest.half().float().transpose(1, 2), torch.ones(4, 1, 1)).T
    assert changed[3] is not None
    assert torch.allclose(changed[3], fused, atol=1e-6)
    assert [event["left_out"] for event in events] == [{"a": ["y"]}] * 2
    again = ReliableNumberAggregation(None)
    again.restore(aggregation.state())
    assert torch.equal(again.exclude([], CARDS), aggregation.exclude([], CARDS))
    without = again.exclude(["a"], CARDS)
    assert without is not None
    assert torch.allclose(without[: 4 * BATCH], changed[3], atol=1e-6)


@pytest.mark.parametrize("rule", ["auto", "mean"])
def test_of_whom_nobody_else_answered_nothing_is_known_once_they_are_excluded(rule: str) -> None:
    """It was the low end of the range: a student was told that they stay for no day."""
    context = replace(context_of(torch.nn.Identity(), (1, 1, 2), 1), task=task_of(CARDS[:2]))
    aggregation = ByRule(rule).build(context)
    for names in ("b", "ab"):
        said = {name: Reply({Signal.LOGITS: torch.full((2, 1), 0.6)}) for name in names}
        aggregation.fusion(CARDS[:2]).of(said)
        aggregation.hear(said, LABELS, None, Proposal(torch.zeros(2, 1, 1, 2), "uniform"))
    targets = aggregation.exclude(["b"], CARDS[:2])
    assert targets is not None
    assert targets[:, 0].tolist() == pytest.approx([0.5, 0.5, 0.6, 0.6], abs=1e-3)
