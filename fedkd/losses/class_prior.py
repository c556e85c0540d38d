"""Class-prior terms: which classes, and how surely, the teacher sees in synthesised images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.losses.term import LEAST, LOGITS, Batch, Term
from fedkd.protocol import Signal


def one_hot() -> Term:
    """Cross-entropy of the teacher against its own decision; low: the teacher is sure."""

    def value(b: Batch) -> Tensor:
        logits = b.teacher[Signal.LOGITS]  # (B, K)
        return F.cross_entropy(logits, logits.argmax(1))

    return Term("one_hot", "CE(T(x), argmax T(x))", LOGITS, value)


def target_class(temperature: float = 1.0) -> Term:
    """Cross-entropy of the teacher with the class targets, classes or probabilities.

    Low: the teacher sees what the images were synthesised to show.

    Args:
        temperature: of the teacher's softmax, > 0.
    """

    def value(b: Batch) -> Tensor:
        targets = targets_of(b, "target_class")
        return F.cross_entropy(b.teacher[Signal.LOGITS] / temperature, targets)

    return Term("target_class", "CE(T(x) / tau, y)", LOGITS, value)


def hard_class(power: float = 1.0) -> Term:
    """Cross-entropy with the target class, each image by how hard it is; low: all are easy.

    Args:
        power: of 1 - p, p the ensemble's probability of the class, >= 0; 0: all are alike.
    """
    if power < 0:
        raise SettingsError(f"hard_class: expected a power >= 0, got {power}")

    def value(b: Batch) -> Tensor:
        targets = targets_of(b, "hard_class")
        each = F.cross_entropy(b.teacher[Signal.LOGITS], targets, reduction="none")  # (B,)
        difficulty = (1 - (-each.detach()).exp()) ** power
        return (difficulty * each).mean()

    return Term("hard_class", "mean_b (1 - p_b)^a CE(T(x_b), y_b)", LOGITS, value)


def class_balance(temperature: float = 1.0) -> Term:
    """Negative entropy of the mean prediction; low: every class is present in the batch."""

    def value(b: Batch) -> Tensor:
        p = (b.teacher[Signal.LOGITS] / temperature).softmax(1).mean(0)  # (K,)
        return (p * p.clamp_min(LEAST).log()).sum()  # entr has no slope at 0

    equation = "sum_c p(c) log p(c), p = mean_b softmax(T(x_b) / tau)"
    return Term("class_balance", equation, LOGITS, value)


def category_frequency(beta: float = 0.99, decay: float = 0.5, first: float = 50.0) -> Term:
    """Negative entropy of the mean prediction, rare classes weighted up; low: even.

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

    def counts(b: Batch) -> Tensor:
        logits = b.teacher[Signal.LOGITS]
        seen = b.previous.get("category_frequency", torch.full((logits.shape[1],), first))
        return seen.to(logits.device)  # of a resumed run it comes from ordinary memory

    def value(b: Batch) -> Tensor:
        p = b.teacher[Signal.LOGITS].softmax(1).mean(0)  # (K,)
        weight = (1 - beta) / (1 - beta ** counts(b))
        weight = weight / weight.sum() * len(weight)
        return (weight * p * p.clamp_min(LEAST).log()).sum()

    def capture(b: Batch) -> Tensor:
        logits = b.teacher[Signal.LOGITS]
        seen = logits.argmax(1).bincount(minlength=logits.shape[1])
        return (decay * counts(b) + (1 - decay) * seen).clamp_min(1.0)

    equation = (
        "sum_c w_c p(c) log p(c), p = mean_b softmax(T(x_b)), w_c ~ (1 - beta) / (1 - beta^n_c)"
    )
    return Term("category_frequency", equation, LOGITS, value, capture)


def targets_of(batch: Batch, term: str) -> Tensor:
    """The class targets of a batch, for the term of that name.

    Raises:
        SettingsError: images are synthesised without any.
    """
    if batch.class_targets is None:
        raise SettingsError(
            f"term {term} needs images that are synthesised for a class; choose a synthesis target "
            "with class targets: latents, pixels, or a class-conditional network"
        )
    return batch.class_targets
