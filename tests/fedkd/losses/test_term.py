"""What a term is: minimised, weighted, penalised by its past, and told what auxiliary networks
read."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedkd.core.schedules import FULL, constant, ramp
from fedkd.errors import SettingsError
from fedkd.losses import (
    Batch,
    Term,
    adversarial_kl,
    bn_gap,
    boundary_support,
    class_balance,
    hard_class,
    jensen_shannon,
    l2_norm,
    logit_discrepancy,
    one_hot,
    penalised,
    target_class,
    total_variation,
    weighted,
)
from fedkd.protocol import Signal

K = 4
SURE = torch.eye(K) * 10
UNSURE = torch.zeros(K, K)
COLLAPSED = torch.eye(K)[[0, 0, 0, 0]] * 10
OPPOSED = torch.eye(K).roll(1, 0) * 10
EVERY = torch.arange(K)


def batch(teacher: Tensor, student: Tensor | None = None, gap: float = 0.0) -> Batch:
    """A batch with these logits, of images that are to show one class each."""
    return Batch(
        torch.zeros(len(teacher), 1, 2, 2),
        {Signal.LOGITS: teacher, Signal.BN_GAP: torch.tensor(gap)},
        teacher if student is None else student,
        class_targets=EVERY,
    )


def images(values: list[float]) -> Batch:
    return replace(batch(SURE), images=torch.tensor(values).view(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("term", "good", "bad"),
    [
        (one_hot(), batch(SURE), batch(UNSURE)),
        (target_class(), batch(SURE), batch(OPPOSED)),
        (hard_class(), batch(SURE), batch(OPPOSED)),
        (class_balance(), batch(SURE), batch(COLLAPSED)),
        (bn_gap(), batch(SURE, gap=0.1), batch(SURE, gap=2.0)),
        (adversarial_kl(masked=False), batch(SURE, OPPOSED), batch(SURE, SURE)),
        (adversarial_kl(masked=True), batch(SURE, SURE / 10), batch(SURE, SURE)),
        (boundary_support(), batch(SURE, OPPOSED), batch(SURE, SURE / 10)),
        (logit_discrepancy(), batch(SURE, OPPOSED), batch(SURE, SURE)),
        (jensen_shannon(), batch(SURE, OPPOSED), batch(SURE, SURE)),
        (total_variation(), images([0.5, 0.5, 0.5, 0.5]), images([0.0, 1.0, 1.0, 0.0])),
        (l2_norm(), images([0.4, 0.6, 0.4, 0.6]), images([0.0, 0.0, 0.0, 0.0])),
    ],
    ids=lambda x: x.name if isinstance(x, Term) else "",
)
def test_the_good_batch_scores_lower(term: Term, good: Batch, bad: Batch) -> None:
    assert term.value(good) < term.value(bad)


def test_what_became_worse_is_pulled_exponentially_harder() -> None:
    logits = torch.randn(6, K, generator=torch.Generator().manual_seed(12)).double() * 3
    term = penalised(one_hot())
    plain = float(one_hot().value(batch(logits)))
    assert float(term.value(batch(logits))) == pytest.approx(math.exp(plain))
    captured = {"one_hot": torch.tensor(0.7).double(), "class_balance": torch.tensor(-1.0)}
    later = replace(batch(logits), previous=captured)
    assert float(term.value(later)) == pytest.approx(math.exp(plain - 0.7))
    assert term.capture is not None
    assert float(term.capture(later)) == pytest.approx(plain)
    assert penalised(one_hot(), 120).capture_interval == 120


def test_a_term_that_never_weighs_anything_asks_for_no_signal() -> None:
    late = ramp(0.0, 1.0)
    objective = weighted((FULL, one_hot()), (constant(0.0), bn_gap()), (late, class_balance()))
    assert [term.name for _, term in objective] == ["one_hot", "class_balance"]
    assert objective[1][0] is late
    assert Signal.BN_GAP not in frozenset[Signal]().union(*(term.needs for _, term in objective))


@pytest.mark.parametrize("schedule", [constant(-0.1), constant(math.nan), ramp(1.0, -1.0)])
def test_a_weight_below_zero_is_refused_since_every_term_is_minimised(
    schedule: object,
) -> None:
    with pytest.raises(SettingsError, match=r"weight of one_hot is .* expected a finite number"):
        weighted((schedule, one_hot()))  # type: ignore[arg-type]


def test_a_term_reads_the_auxiliary_network_of_its_own_spec() -> None:
    one, other = object(), object()
    read = replace(batch(SURE), readings={id(one): "one", id(other): "other"})
    assert (read.of(one), read.of(other)) == ("one", "other")
