"""Metrics of a student: accuracy, recall, agreement, fidelity, stability over a run."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.protocol import as_float


def predict_logits(model: nn.Module, images: Tensor, batch: int = 1024) -> Tensor:
    """Logits of a model in evaluation mode, (N, C, H, W) -> (N, K); its mode is restored."""
    was_training, first = model.training, next(model.parameters(), None)
    device = images.device if first is None else first.device
    model.eval()
    with torch.no_grad():
        pieces = [model(as_float(piece.to(device))) for piece in torch.split(images, batch)]
        logits = torch.cat(pieces).to(images.device)
    model.train(was_training)
    return logits


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of (N, K) logits whose largest is the label (N,); in [0, 1]."""
    return float((logits.argmax(1) == labels).float().mean())


def recall(logits: Tensor, labels: Tensor) -> list[float | None]:
    """Recall of each class from (N, K) logits; None for a class without images."""
    right, classes = logits.argmax(1) == labels, range(logits.shape[1])
    return [
        float(right[labels == c].float().mean()) if bool((labels == c).any()) else None
        for c in classes
    ]


def agreement(student: Tensor, teacher: Tensor) -> float:
    """Share of images for which two (N, K) logits have the same argmax; in [0, 1]."""
    return accuracy(student, teacher.argmax(1))


def js_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two (N, K) logits' probabilities, ``(N,)`` in [0, ln 2].

    JSD(p, q) = KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2 and the natural logarithm, at
    temperature 1. In float64, since similar distributions differ in digits that float32 lacks.
    """
    p, q = student.double().softmax(1), teacher.double().softmax(1)
    middle = (p + q) / 2

    def relative(one: Tensor) -> Tensor:
        # xlogy takes 0 log 0 for 0; the middle is 0 only where both are 0.
        return torch.xlogy(one, one).sum(1) - torch.xlogy(one, middle).sum(1)

    return ((relative(p) + relative(q)) / 2).clamp(min=0.0)


def fidelity(student: Tensor, teacher: Tensor) -> float:
    """Probability fidelity of two (N, K) logits: the mean of 1 - sqrt(JSD) over images.

    JSD as in `js_divergence`. 1 where all probabilities are equal; 1 - sqrt(ln 2), about 0.167,
    where the two have no class in common at all.
    """
    return float((1.0 - js_divergence(student, teacher).sqrt()).mean())


def fidelity_double_root(student: Tensor, teacher: Tensor) -> float:
    """Fidelity as the released code of CuDFKD computes it: the mean of 1 - sqrt(sqrt(JSD)).

    It takes the square root of a Jensen-Shannon distance, which is a root already, so it is lower
    than `fidelity`. Only for comparison with published figures.
    """
    return float((1.0 - js_divergence(student, teacher).sqrt().sqrt()).mean())


@dataclass(frozen=True)
class TrainingStability:
    """Mean and variance of the accuracies over a part of a run.

    Over the scores a_1 ... a_n of that part, all of equal weight,
    mean = sum(a_i) / n and variance = sum((a_i - mean)^2) / n.
    """

    mean: float
    variance: float
    """In squared shares: times 10^4 it is in squared percentage points, as papers print it."""
    scores: int
    """n."""


def training_stability(scores: Sequence[float], last: float = 1.0) -> TrainingStability | None:
    """Mean and variance of the later scores of a run; None without any.

    Args:
        scores: accuracies in [0, 1] in order of time, evenly spaced over the student's steps.
        last: share of the scores that count, the last ones, in (0, 1]. 1 for all of them, the
            first of which are of an untrained student; 0.5 for the last half, rounded up.
    """
    counted = scores[int(len(scores) * (1 - last)) :]
    if not counted:
        return None
    mean = statistics.fmean(counted)
    return TrainingStability(mean, statistics.pvariance(counted, mean), len(counted))


def class_entropy(counts: Sequence[Tensor]) -> float:
    """Entropy of class counts, each (K,), added up; 0 for one class, 1 for all alike."""
    p = torch.stack(list(counts)).sum(0).float()
    p = p / p.sum()
    return float(torch.special.entr(p).sum() / torch.log(torch.tensor(float(len(p)))))
