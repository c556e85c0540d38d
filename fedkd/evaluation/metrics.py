"""How good a student is. Knows logits and labels, and opens no data itself."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.protocol import as_float


def predict_logits(model: nn.Module, images: Tensor, batch: int = 1024) -> Tensor:
    """(N, C, H, W) -> (N, K) in evaluation mode; the model is left in the mode it was in."""
    was_training, first = model.training, next(model.parameters(), None)
    device = images.device if first is None else first.device
    model.eval()
    with torch.no_grad():
        pieces = [model(as_float(piece.to(device))) for piece in torch.split(images, batch)]
        said = torch.cat(pieces).to(images.device)
    model.train(was_training)
    return said


def accuracy(said: Tensor, labels: Tensor) -> float:
    """Share of (N, K) logits whose largest is the label (N,); in [0, 1]."""
    return float((said.argmax(1) == labels).float().mean())


def recall(said: Tensor, labels: Tensor) -> list[float | None]:
    """For each class, the share of its images that (N, K) logits find; None where it has none."""
    right, classes = said.argmax(1) == labels, range(said.shape[1])
    return [
        float(right[labels == c].float().mean()) if bool((labels == c).any()) else None
        for c in classes
    ]


def agreement(student: Tensor, teacher: Tensor) -> float:
    """Share of images on which two (N, K) logits decide alike; in [0, 1]."""
    return accuracy(student, teacher.argmax(1))


def js_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Jensen-Shannon divergence of two (N, K) logits' probabilities, ``(N,)`` in [0, ln 2].

    JSD(p, q) = KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2 and the natural logarithm, at
    temperature 1. In float64, since what is alike differs in digits that float32 has not.
    """
    p, q = student.double().softmax(1), teacher.double().softmax(1)
    middle = (p + q) / 2

    def relative(one: Tensor) -> Tensor:
        # xlogy takes 0 log 0 for 0; a middle of 0 stands only where both are 0.
        return torch.xlogy(one, one).sum(1) - torch.xlogy(one, middle).sum(1)

    return ((relative(p) + relative(q)) / 2).clamp(min=0.0)


def fidelity(student: Tensor, teacher: Tensor) -> float:
    """Probability fidelity of two (N, K) logits: the mean of 1 - sqrt(JSD) over images.

    JSD as in `js_divergence`. 1 where all probabilities are alike; 1 - sqrt(ln 2), about 0.167, where
    the two never name the same class at all.
    """
    return float((1.0 - js_divergence(student, teacher).sqrt()).mean())


def fidelity_double_root(student: Tensor, teacher: Tensor) -> float:
    """As the released code of CuDFKD computes fidelity: the mean of 1 - sqrt(sqrt(JSD)).

    It takes the root of what is a root already (a Jensen-Shannon distance), so it reads lower
    than `fidelity`. For comparison with published figures alone.
    """
    return float((1.0 - js_divergence(student, teacher).sqrt().sqrt()).mean())


@dataclass(frozen=True)
class TrainingStability:
    """How accuracies spread over a stretch of a run: how steady the learning was.

    Over the scores a_1 ... a_n of the stretch, all of equal weight,
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
            first of which tell of a student that has learned nothing yet; 0.5 for the last half,
            rounded up.
    """
    counted = scores[int(len(scores) * (1 - last)) :]
    if not counted:
        return None
    mean = statistics.fmean(counted)
    return TrainingStability(mean, statistics.pvariance(counted, mean), len(counted))
