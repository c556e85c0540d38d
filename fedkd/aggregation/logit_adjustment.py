"""Logit adjustment: fused answers get a class prior that was chosen, in place of the trained one.

A teacher answers with the class prior of its training data, and so does whatever fuses such
answers. Where institutions tell their class counts, that prior is known, and its logarithm is
subtracted; the logarithm of the prior that is wanted is added (Menon et al., "Long-tail learning
via logit adjustment", ICLR 2021, after training and over several teachers).

How much of the prior a rule lets through depends on the rule and on who has which class. It is
read off the rule itself: a sample without evidence is one to which every teacher answers with its
own prior, and what the rule makes of these answers, E, is the prior of the fused answer. E is exact
where a rule is linear in log-probabilities, and noisy where a teacher has hardly seen a class. So
only its part along the pooled log-prior P of all training samples is removed,

    offset = share * P,    share = <E, P> / <P, P>, limited to [0, 1],

with E and P centred. Institutions with one and the same prior have share 1, and the whole of it is
removed. Pooled classes of equal size have P = 0: nothing changes, however they are spread.

Source: ours, but for the subtraction itself.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedkd.core.run_plan import AS_TRAINED, AUTO, ClassPrior
from fedkd.errors import SettingsError

_SMALLEST = 1e-9
"""Of <P, P>: below it pooled classes are of equal size."""


def refuse_prior(prior: ClassPrior, why: str) -> None:
    """Refuse a prior that is asked for where there can be none.

    Raises:
        SettingsError: it is neither `AUTO` nor `AS_TRAINED`.
    """
    if prior not in (AUTO, AS_TRAINED):
        raise SettingsError(f"questions.prior is {prior!r}, and {why}; leave it out")


def wanted_prior(
    prior: ClassPrior, classes: Sequence[str], counted: bool
) -> tuple[float, ...] | None:
    """The shares that fused answers are to have, (K,); None: as trained.

    Args:
        prior: as it is set.
        classes: names, (K,).
        counted: whether the rule uses class counts.

    Raises:
        SettingsError: a number of shares that is not K.
    """
    if prior == AS_TRAINED or (prior == AUTO and not counted):
        return None
    if isinstance(prior, str):
        return (1 / len(classes),) * len(classes)
    if len(prior) != len(classes):
        raise SettingsError(
            f"questions.prior has {len(prior)} shares and the federation {len(classes)} classes; "
            f"give one for each, in this order: {', '.join(classes)}"
        )
    return prior


def institution_log_priors(counts: Tensor, known: Tensor | None = None) -> Tensor:
    """Log of each institution's class prior, (T, K) counts -> (T, K).

    One sample is added to each class, so that nothing is impossible, but for classes that an
    institution does not have at all.

    Args:
        counts: training samples of each class at each institution.
        known: (T, K) who has which class, -inf elsewhere; None: all have all.
    """
    more = counts + 1.0 if known is None else (counts + 1.0) * known
    return (more / more.sum(1, keepdim=True)).log()


def fused_log_prior(effective: Tensor, pooled: Tensor) -> Tensor:
    """Log-prior of fused answers as far as the federation's class counts cause it, (K,), mean 0.

    Args:
        effective: E, (K,), what the rule makes of `institution_log_priors`, of counts that are
            bounded as the rule's are.
        pooled: (K,) training samples of each class at all institutions. False claims turn the
            offset, and cannot make it larger than E.
    """
    direction, effect = _centred((pooled + 1.0).log()), _centred(effective)
    square = direction.square().sum()
    if float(square) < _SMALLEST:
        return torch.zeros_like(direction)
    return ((effect @ direction) / square).clamp(0.0, 1.0) * direction


def adjusted(logits: Tensor, log_prior: Tensor, prior: Tensor) -> Tensor:
    """Logits (B, K) with ``log_prior`` (K,) replaced by that of the shares ``prior`` (K,)."""
    return logits + (_centred(prior.log()) - log_prior).to(logits)


def _centred(values: Tensor) -> Tensor:
    return values - values.mean()
