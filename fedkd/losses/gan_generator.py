"""Terms of a generator that is trained against a discriminator of public and generated images."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.class_prior import targets_of
from fedkd.losses.term import Batch, Term


def adversarial_realness(discriminator: Any) -> Term:
    """Negative score of the discriminator; low: it takes the images for public ones.

    Args:
        discriminator: spec, `fedkd.synthesis.Discriminator`.
    """

    def value(b: Batch) -> Tensor:
        score: Tensor = b.of(discriminator).score
        return -score.mean()

    return Term(
        "adversarial_realness", "-mean_b D(x_b)", frozenset(), value, reads=(discriminator,)
    )


def classwise_realness(discriminator: Any) -> Term:
    """How much rather the discriminator sees the target class as generated than as public.

    Low: it sees the class, and takes the image for a public one.

    Args:
        discriminator: spec, `fedkd.synthesis.Discriminator`.
    """

    def value(b: Batch) -> Tensor:
        targets = targets_of(b, "classwise_realness")
        sides: Tensor = b.of(discriminator).class_by_side  # (B, 2 K)
        return F.cross_entropy(sides, 2 * targets) - F.cross_entropy(sides, 2 * targets + 1)

    equation = "CE(side(x), 2 y) - CE(side(x), 2 y + 1)"
    return Term("classwise_realness", equation, frozenset(), value, reads=(discriminator,))
