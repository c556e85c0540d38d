"""Feature-statistics terms: how far images are from the teacher's training statistics."""

from fedkd.losses.term import Term
from fedkd.protocol import Signal


def bn_gap() -> Term:
    """Distance to the teacher's batch-norm statistics; low: looks like what it was trained on."""
    return Term(
        "bn_gap",
        "sum_layers |mu_running - mu(x)|_2 + |var_running - var(x)|_2",
        frozenset({Signal.BN_GAP}),
        lambda b: b.teacher[Signal.BN_GAP],
    )
