"""Images moved to where the ensemble says something else. Knows slopes, not what they are for."""

from collections.abc import Generator

import torch
from torch import Tensor

from fedkd.methods.method import Method
from fedkd.protocol import Answers, Request, Signal, as_float
from fedkd.synthesis.generator_training import Heard
from fedkd.synthesis.gradients import Point
from fedkd.synthesis.sources import to_bytes


def neighbours_of(
    heard: Heard, method: Method, student: torch.nn.Module, rng: torch.Generator
) -> Generator[Request, Answers, Tensor]:
    """Each image by a step along the sign of its slope, (B, C, H, W) uint8; asks for the slope.

    ``x + step sign(d <u, softmax(T(x) / tau)> / d x)``, u of each image uniform in [-1, 1]^K

    Source: output diversification (Tashiro et al., NeurIPS 2020), as Co-Boosting uses it.
    """
    if method.neighbours is None:
        raise ValueError("a method without neighbours has none")
    leaves = {
        name: reply.signals[Signal.LOGITS].float().detach().requires_grad_()
        for name, reply in heard.answers.items()
    }
    fused = heard.fusion({n: {Signal.LOGITS: leaf} for n, leaf in leaves.items()})[Signal.LOGITS]
    direction = 2 * torch.rand(fused.shape, generator=rng) - 1
    probability = (fused / method.neighbours.temperature).softmax(1)
    torch.autograd.backward((direction * probability).sum())
    cotangents = {
        name: {Signal.LOGITS: leaf.grad} for name, leaf in leaves.items() if leaf.grad is not None
    }
    point = Point(heard.images, heard.answers, cotangents, student, rng, heard.labels)
    slope = yield from method.gradient.pull(point)
    moved = as_float(heard.images) + method.neighbours.step * slope.sign()
    return to_bytes(moved.clamp(0.0, 1.0))
