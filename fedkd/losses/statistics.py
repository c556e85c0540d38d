"""Feature-statistics terms: how images are beside the teacher's training statistics."""

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


def activation() -> Term:
    """Negative mean magnitude of the teacher's features; low: its features respond to the images.

    Source: DAFL (Chen et al., ICCV 2019), whose features are those before the last layer.
    """
    return Term(
        "activation",
        "-mean_b mean_d |f_d(x_b)|",
        frozenset({Signal.ACTIVATION}),
        lambda b: -b.teacher[Signal.ACTIVATION],
    )
