"""A loss term of sample synthesis: its value on a batch, and what it needs to compute it.

Every term is minimised, and its weight is never negative: where a paper maximises a quantity,
the term is its negative, and the docstring says which way is good.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fedkd.core.schedules import Schedule, ever, expect_weights
from fedkd.core.source_types import ONE_SOFTMAX
from fedkd.errors import SettingsError
from fedkd.protocol import Signal

LEAST = 1e-30
"""Below this a probability is zero: p log p is, and its logarithm stays finite."""
LOGITS = frozenset({Signal.LOGITS})


@dataclass(frozen=True, eq=False)
class Batch:
    """Synthesised images and the signals of teacher and student on them."""

    images: Tensor
    """(B, C, H, W) in [0, 1]."""
    teacher: Mapping[Signal, Tensor]
    """The ensemble's signals."""
    student: Tensor
    """The student's logits, (B, K)."""
    selected: Tensor | None = None
    """(B,) bool: images that passed the method's selection; None: all."""
    class_targets: Tensor | None = None
    """(B,) classes or (B, K) probabilities that the images are synthesised to show; None: none."""
    previous: Mapping[str, Tensor] = field(default_factory=dict)
    """By term, what it captured of an earlier batch; absent before the first time."""
    groups: tuple[slice, ...] = ()
    """Outputs of each task, see `fedkd.core.task.Task.groups`; none: it is not told."""
    views: Mapping[int, Tensor] = field(default_factory=dict)
    """The teacher's features of further views of the images, (B', D), by identity of the spec of
    the auxiliary network that wanted them."""
    readings: Mapping[int, Any] = field(default_factory=dict)
    """What the auxiliary networks of terms made of the images, by identity of their specs."""

    def of(self, auxiliary: object) -> Any:
        """What the auxiliary network that was built of this spec made of the images."""
        return self.readings[id(auxiliary)]


@dataclass(frozen=True)
class Term:
    """A loss of a batch: low is good."""

    name: str
    equation: str
    needs: frozenset[Signal]
    """What must be asked of an institution to compute it."""
    value: Callable[[Batch], Tensor]
    """Batch -> ()."""
    capture: Callable[[Batch], Tensor] | None = None
    """Batch -> what it finds under its name in `Batch.previous` from the next capture on."""
    capture_interval: int = 1
    """Generator steps from one capture to the next, >= 1; the second step of each is captured."""
    reads: tuple[Any, ...] = ()
    """Specs of the auxiliary networks whose readings it takes, see
    `fedkd.synthesis.auxiliary_networks.interface`."""
    tasks: frozenset[str] = ONE_SOFTMAX
    """What teachers may predict, see `fedkd.core.source_types.Needs`."""
    views: int = 0
    """Further views of each image that are asked about and pulled back for what it reads."""

    def __post_init__(self) -> None:
        if self.capture_interval < 1:
            raise SettingsError(
                f"term {self.name} is captured every {self.capture_interval} steps; expected an "
                "interval >= 1"
            )


Objective: TypeAlias = tuple[tuple[Schedule, Term], ...]
"""Terms, each with a schedule of its weight, all minimised together."""


def weighted(*objective: tuple[Schedule, Term]) -> Objective:
    """The terms that ever weigh anything: one that never does must not ask for its signals.

    Raises:
        SettingsError: a weight below 0.
    """
    for schedule, term in objective:
        expect_weights(f"weight of {term.name}", schedule)
    return tuple((schedule, term) for schedule, term in objective if ever(schedule))


def penalised(term: Term, interval: int = 1) -> Term:
    """E to the power of what a term has gained since it was captured; low: it got no worse.

    Of two terms that pull apart, whichever became worse is pulled exponentially harder. No weight
    has to be found; before the first capture, what was captured is 0.

    Args:
        term: any.
        interval: generator steps from one capture to the next, >= 1.
    """

    def value(b: Batch) -> Tensor:
        return torch.exp(term.value(b) - b.previous.get(term.name, 0.0))

    equation = f"exp(L - L_previous), L = {term.equation}"
    return Term(
        *(term.name, equation, term.needs, value, term.value, interval, term.reads, term.tasks),
        views=term.views,
    )
