"""How good a student is. Knows logits and labels, and opens no data itself."""

import torch
from torch import Tensor, nn

from fedkd.signals import as_float


def logits(model: nn.Module, images: Tensor, batch: int = 1024) -> Tensor:
    """(N, C, H, W) -> (N, K) in evaluation mode; the model is left in the mode it was in."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        said = torch.cat([model(as_float(piece)) for piece in torch.split(images, batch)])
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
