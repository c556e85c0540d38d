"""Terms of a generator that has a critic, or that counts what it drew. All are minimised."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.losses.term import LEAST, Batch, Term
from fedkd.protocol import Signal
from fedkd.synthesis.discriminator import Judgement


def realness() -> Term:
    """Negative score of the critic; low: it takes the images for collected ones."""
    return Term("realness", "-mean_b D(x_b)", frozenset(), lambda b: -_judged(b).score.mean())


def sidedness() -> Term:
    """How much rather the critic sees the invented version of the wanted class than the collected.

    Low: it sees the class, and takes it for collected.
    """

    def value(b: Batch) -> Tensor:
        if b.wanted is None:
            raise SettingsError("term sidedness needs a canvas that wants classes")
        sides = _judged(b).sides
        return F.cross_entropy(sides, 2 * b.wanted) - F.cross_entropy(sides, 2 * b.wanted + 1)

    return Term("sidedness", "CE(side(x), 2 y) - CE(side(x), 2 y + 1)", frozenset(), value)


def category_frequency(beta: float = 0.99, decay: float = 0.5, first: float = 50.0) -> Term:
    """Negative entropy of the mean prediction, each class by how seldom it was drawn; low: even.

    The weight of a class is that of the effective number of its samples, as ``(1 - beta) /
    (1 - beta^n)``, scaled to sum to K; n is a moving average of how many images teachers gave it.

    Args:
        beta: in [0, 1); at 0 all classes weigh alike.
        decay: of the average, in [0, 1).
        first: n of each class before there was a batch, > 0.

    Source: class-balancing GAN (Rangwani et al., UAI 2021), which HiDFD takes up.
    """
    if not (0 <= beta < 1 and 0 <= decay < 1 and first > 0):
        raise SettingsError(
            f"category_frequency: beta {beta}, decay {decay}, first {first}; expected "
            "beta and decay in [0, 1) and first > 0"
        )

    def drawn(b: Batch) -> Tensor:
        classes = b.teacher[Signal.LOGITS].shape[1]
        return b.previous.get("category_frequency", torch.full((classes,), first))

    def value(b: Batch) -> Tensor:
        p = b.teacher[Signal.LOGITS].softmax(1).mean(0)  # (K,)
        weight = (1 - beta) / (1 - beta ** drawn(b))
        weight = weight / weight.sum() * len(weight)
        return (weight * p * p.clamp_min(LEAST).log()).sum()

    def memory(b: Batch) -> Tensor:
        said = b.teacher[Signal.LOGITS]
        counts = said.argmax(1).bincount(minlength=said.shape[1])
        return (decay * drawn(b) + (1 - decay) * counts).clamp_min(1.0)

    return Term(
        "category_frequency",
        "sum_c w_c p(c) log p(c), p = mean_b softmax(T(x_b)), w_c ~ (1 - beta) / (1 - beta^n_c)",
        frozenset({Signal.LOGITS}),
        value,
        memory,
    )


def _judged(b: Batch) -> Judgement:
    if b.judged is None:
        raise SettingsError("this term needs a method with a critic; name one")
    return b.judged
