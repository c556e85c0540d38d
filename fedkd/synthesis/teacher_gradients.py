"""Gradient of a loss in the images through remote teachers: pull-back, student, differences.

A generator's objective depends on its images in two ways: through the student, which is here,
and through the teachers, which are not. The first part is plain autograd. The second needs the
product of a cotangent (d loss / d signal) with a teacher's Jacobian, and the values below differ
only in how they come by it. What they need they ask for by ``yield``, like all else in the loop.
"""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from fedkd.core.interfaces import Record
from fedkd.errors import SettingsError
from fedkd.protocol import Answers, Ask, LabelSpaces, PullBack, Request, Signal, as_float

Cotangents: TypeAlias = Mapping[str, Mapping[Signal, Tensor]]
"""d loss / d signal, by institution."""


MAX_SLOPE = 1e4
"""Largest slope of an institution's answers that is believed: logits per unit of a pixel. Far above
that of any trained network, and far below what would silence an optimiser for the rest of a run."""


class DroppedGradients:
    """Institutions whose part of some gradient was dropped; each is put into the record once.

    Args:
        record: of the run.
    """

    def __init__(self, record: Record) -> None:
        self.names: set[str] = set()
        self._record = record

    def __call__(self, name: str) -> None:
        """The part of ``name`` was dropped."""
        if name not in self.names:
            self.names.add(name)
            text = f"gradients of {name} are not finite, or larger than any network's; left out"
            self._record("warned", text=text)


@dataclass(frozen=True, eq=False)
class Point:
    """Where a gradient is wanted."""

    images: Tensor
    """(B, C, H, W), as they were asked."""
    answers: Answers
    """What was answered there."""
    cotangents: Cotangents
    student: Callable[[Tensor], Tensor]
    """(B, C, H, W) in [0, 1] -> (B, K), both in ordinary memory."""
    rng: torch.Generator
    labels: LabelSpaces | None = None
    """Who has which class; None: everybody has all, in one order."""
    dropped: Callable[[str], None] = lambda name: None
    """Called with the name of an institution whose part was left out."""


Pulled: TypeAlias = Generator[Request, Answers, Tensor]
"""Asks what it must and returns the teachers' part of d loss / d images, (B, C, H, W)."""


@dataclass(frozen=True)
class Gradient:
    """One way to have the teachers' part of d loss / d images."""

    name: str
    pull: Callable[[Point], Pulled]
    pulls_back: bool = False
    """Whether institutions must answer `PullBack`."""
    believes_student: bool = False
    """Whether the objective reads the student in the place of every teacher."""
    questions: int = 0
    """Further samples asked about for each image of a generator step."""
    believes_earlier_student: bool = False
    """Whether the objective reads the student of an earlier run in the place of every teacher. It
    lies at the coordinator, so all its signals have a gradient, and nobody is asked."""


def _pull_back(at: Point) -> Pulled:
    pulled = yield {name: PullBack(at.images, c) for name, c in at.cotangents.items()}
    total = torch.zeros(at.images.shape)
    for name in sorted(pulled):
        if (gradient := pulled[name].gradient) is None:
            continue
        steepest = max((float(c.abs().max()) for c in at.cotangents[name].values()), default=1.0)
        if _is_plausible(gradient, max(1.0, steepest)):
            total += gradient
        else:
            at.dropped(name)
    return total


def _of_logits(at: Point) -> dict[str, Tensor]:
    """By institution that has a part in the loss through its logits, d loss / d logits."""
    return {n: own[Signal.LOGITS] for n, own in at.cotangents.items() if Signal.LOGITS in own}


def _is_plausible(slope: Tensor, scale: float) -> bool:
    """Whether each value is finite and at most `MAX_SLOPE` times ``scale``; NaN is neither."""
    return bool(slope.abs().max() <= MAX_SLOPE * scale)


def _through_student(at: Point) -> Pulled:
    yield from ()  # asks nothing
    leaf = as_float(at.images).clone().requires_grad_()
    cotangents = _of_logits(at)
    if not cotangents:  # only other signals have a part in the loss
        return torch.zeros(at.images.shape)
    if at.labels is not None:
        cotangents = {name: at.labels.to_union(name, c, 0.0) for name, c in cotangents.items()}
    cotangent = torch.stack([cotangents[name] for name in sorted(cotangents)]).sum(0)  # (B, K)
    (gradient,) = torch.autograd.grad(at.student(leaf), leaf, cotangent)
    return gradient


def _nothing(at: Point) -> Pulled:
    yield from ()
    return torch.zeros(at.images.shape)


def forward_differences(directions: int = 1, step: float = 0.1) -> Gradient:
    """Answers to slightly moved images stand for a Jacobian.

    The slope along a random unit direction u is had for each sample on its own, since a cotangent
    c says how the loss depends on that sample's answer:
    ``d/m sum_i <c, T(x + step u_i) - T(x)> / step * u_i``, with d = C H W.

    Source: forward differences as in DFME (Truong et al., CVPR 2021) and MAZE (Kariyappa et al.,
    CVPR 2021), which take them of the whole loss, the student's part of it included.

    Args:
        directions: m >= 1; each costs a question about every image.
        step: length of the move, > 0, images in [0, 1].

    Raises:
        SettingsError: no direction, or a move that is no finite number > 0.
    """
    if directions < 1 or not 0 < step < math.inf:
        raise SettingsError(
            f"expected directions >= 1 and a finite step > 0, got {directions} and {step}"
        )

    def pull(at: Point) -> Pulled:
        x = as_float(at.images)
        total = torch.zeros(x.shape)
        for _ in range(directions):
            u = torch.randn(x.shape, generator=at.rng)
            u /= u.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            moved = (x + step * u).clamp(0.0, 1.0)
            there = yield Ask(moved, frozenset({Signal.LOGITS}), exact=True)
            slope = torch.zeros(len(x))
            cotangents = _of_logits(at)
            for name in sorted(set(there) & set(cotangents)):
                here = at.answers[name].signals[Signal.LOGITS]
                change = there[name].signals[Signal.LOGITS] - here  # (B, K)
                if not _is_plausible(change / step, 1.0):
                    at.dropped(name)
                    continue
                slope += (cotangents[name] * change).sum(1) / step
            total += x[0].numel() / directions * slope.view(-1, 1, 1, 1) * u
        return total

    return Gradient("finite_differences", pull, questions=directions)


NONE = Gradient("none", _nothing)
"""Nothing is trained to invent images."""
PULL_BACK = Gradient("pull_back", _pull_back, pulls_back=True)
"""Exact: every institution returns the vector-Jacobian product of its signals."""
STUDENT = Gradient("student", _through_student, believes_student=True)
"""The student stands for every teacher, values and slope: free, and blind to where it is wrong."""
EARLIER_STUDENT = Gradient("earlier_student", _nothing, believes_earlier_student=True)
"""The student of an earlier run stands for every teacher: free, exact, and of its classes alone."""
STRAIGHT_THROUGH = Gradient("straight_through", _through_student)
"""The loss at the teachers' true values, its slope through the student."""

GRADIENTS: dict[str, Gradient] = {
    g.name: g for g in (NONE, PULL_BACK, STUDENT, STRAIGHT_THROUGH, forward_differences())
}


def gradient_named(name: str) -> Gradient:
    """The gradient of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in GRADIENTS:
        raise SettingsError(f"unknown gradient {name!r}; choose one of {', '.join(GRADIENTS)}")
    return GRADIENTS[name]
