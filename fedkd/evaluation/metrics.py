"""Metrics of a student: accuracy, recall, agreement, fidelity, stability over a run."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.protocol import as_float

CACHED_BATCH, DEVICE_BATCH = 128, 1024
"""Samples at once. What a processor computes of few images stays in its cache; a GPU wants many."""


def predict_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of a model in evaluation mode, (N, C, H, W) -> (N, K); its mode is restored."""
    was_training, first = model.training, next(model.parameters(), None)
    device = images.device if first is None else first.device
    batch = CACHED_BATCH if device.type == "cpu" else DEVICE_BATCH
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


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean recall of the classes that occur, from (N, K) logits; in [0, 1]."""
    return statistics.fmean(each for each in recall(logits, labels) if each is not None)


def auroc(logits: Tensor, labels: Tensor) -> float | None:
    """Area under the ROC curve, of more than two classes the mean over one-against-the-rest.

    Over the classes that occur; None where fewer than two do.
    """
    probability = logits.double().softmax(1)
    there = [c for c in range(logits.shape[1]) if bool((labels == c).any())]
    if len(there) < 2:
        return None
    judged = there[1:] if logits.shape[1] == 2 else there
    return statistics.fmean(_roc_area(probability[:, c], labels == c) for c in judged)


def _roc_area(score: Tensor, positive: Tensor) -> float:
    """Probability that a positive scores above a negative, ties half, from (N,) and (N,) bool.

    By the mean rank of the positives (Mann and Whitney, 1947).
    """
    _, place, count = torch.unique(score, return_inverse=True, return_counts=True)
    rank = (count.cumsum(0) - (count - 1) / 2)[place]
    positives = int(positive.sum())
    above = float(rank[positive].sum()) - positives * (positives + 1) / 2
    return above / (positives * (len(score) - positives))


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over equal bins of confidence; in [0, 1].

    Source: Guo et al., ICML 2017.
    """
    confidence, decision = logits.double().softmax(1).max(1)
    return _calibration_gap(confidence, (decision == labels).double(), bins)


def soft_calibration_error(student: Tensor, teacher: Tensor, bins: int = 15) -> float:
    """The same of two (N, K) logits where no label is known; in [0, 1], 0 for equal ones.

    The probability that the teacher gives to the student's class stands for whether it is right. A
    teacher's own class would not do: a student that is as unsure as its teacher would look wrong.
    """
    confidence, decision = student.double().softmax(1).max(1)
    given = teacher.double().softmax(1).gather(1, decision[:, None])[:, 0]
    return _calibration_gap(confidence, given, bins)


def _calibration_gap(confidence: Tensor, right: Tensor, bins: int) -> float:
    """Over equal bins of confidence, from (N,) float64 each."""
    place = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add(0, place, right - confidence)
    return float(gap.abs().sum() / len(confidence))


def r2_score(outputs: Tensor, truth: Tensor) -> float | None:
    """Coefficient of determination of (N, K), the mean over numbers; at most 1.

    None where one of the numbers does not vary.
    """
    error = (outputs - truth).double().square().sum(0)
    spread = (truth - truth.mean(0)).double().square().sum(0)
    return float((1.0 - error / spread).mean()) if bool((spread > 0).all()) else None


def agreement(student: Tensor, teacher: Tensor) -> float:
    """Share of images for which two (N, K) logits have the same argmax; in [0, 1]."""
    return accuracy(student, teacher.argmax(1))


def kl_divergence(student: Tensor, teacher: Tensor) -> float:
    """Mean KL(teacher || student) of two (N, K) logits' probabilities, in nats; >= 0.

    At temperature 1 and in float64, for the reason that `js_divergence` has.
    """
    p, log_q = teacher.double().softmax(1), student.double().log_softmax(1)
    each = (torch.xlogy(p, p) - p * log_q).sum(1)
    return float(each.mean().clamp(min=0.0))


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
    count = math.ceil(round(len(scores) * last, 9))  # 10 of which 0.9 count are 9, not 9.000...02
    counted = scores[len(scores) - count :]
    if not counted:
        return None
    mean = statistics.fmean(counted)
    return TrainingStability(mean, statistics.pvariance(counted, mean), len(counted))


def class_entropy(counts: Sequence[Tensor]) -> float:
    """Entropy of class counts, each (K,), added up; 0 for one class or none, 1 for all alike."""
    p = torch.stack(list(counts)).sum(0).float()
    if len(p) == 1 or not bool(p.any()):
        return 0.0
    p = p / p.sum()
    return float(torch.special.entr(p).sum() / torch.log(torch.tensor(float(len(p)))))
