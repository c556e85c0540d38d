"""Data types exchanged between the distillation loop and its sources of samples."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from fedkd.protocol import Answers, LabelSpaces, Recipe, Request, Signal

LOGITS: Mapping[Signal, str] = {Signal.LOGITS: "the student"}
"""What every source needs, and who reads it."""


ONE_SOFTMAX = frozenset({"classes"})
"""What is read is one softmax over all outputs."""
SOFTMAXES = frozenset({"classes", "tasks"})
"""Or one for each of several tasks."""
ANYTHING = frozenset({"classes", "tasks", "numbers"})
"""Or no softmax at all."""
NUMBERS = frozenset({"numbers"})
"""No softmax: outputs mean what they are, an offset of all of them included."""
EMBEDDINGS = frozenset({"embedding"})
"""Nothing is predicted; how alike samples are is read."""


@dataclass(frozen=True)
class Needs:
    """What a source cannot do without; held against every card before the first question."""

    signals: Mapping[Signal, str] = field(default_factory=lambda: LOGITS)
    """Signal -> who reads it, for the error message."""
    pull_back: bool = False
    """Whether institutions must answer `PullBack`."""
    public_data: bool = False
    """Whether the coordinator must bring samples of its own."""
    tasks: frozenset[str] = ONE_SOFTMAX
    """What teachers may predict, see `Card.predicts`."""
    earlier_student: bool = False
    """Whether the run must go on with the student of an earlier one."""

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            {**self.signals, **other.signals},
            self.pull_back or other.pull_back,
            self.public_data or other.public_data,
            self.tasks & other.tasks,
            self.earlier_student or other.earlier_student,
        )


@dataclass(frozen=True)
class Cost:
    """Of one proposed sample, in samples of an institution's budget."""

    asked: int = 1
    """Questions about it, >= 1: itself, and all that is asked further on its account."""
    pulled_back: int = 0
    """Vector-Jacobian products that are asked for."""


@dataclass(frozen=True, eq=False)
class Turn:
    """A source's turn to propose."""

    count: int
    """Samples that are wanted, > 0."""
    rng: torch.Generator
    progress: float
    """Of the source, in [0, 1]: the share of its own questions that it is expected to have had,
    which its schedules follow. See `fedkd.core.schedules.ExpectedProgress`."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """A batch of samples to ask about and to bank."""

    images: Tensor
    """(B, C, H, W): uint8, or float in [0, 1] with its graph, and then it is answered exactly."""
    origin: str
    """Who made it, for the record."""
    signals: frozenset[Signal] = frozenset({Signal.LOGITS})
    recipe: Recipe | None = None
    """By which an institution renders the same images; None where there is none."""
    class_targets: Tensor | None = None
    """(B,) classes or (B, K) probabilities that the samples were synthesised to show; None: none
    in particular."""
    labels: Tensor | None = None
    """(B,) classes from which the aggregation may learn; None: it may not."""
    times: int = 1
    """As how many samples each is drawn from the bank, >= 1."""

    def only(self, which: Tensor) -> "Proposal":
        """Those that are ``which``, (B,) bool."""

        def of(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[which.to(value.device)]

        return replace(
            self,
            images=self.images[which.to(self.images.device)],
            recipe=None if self.recipe is None else self.recipe.select(which),
            class_targets=of(self.class_targets),
            labels=of(self.labels),
        )


class Fusion(Protocol):
    """Fuses T replies into one value for each signal, differentiably."""

    def __call__(self, signals: Mapping[str, Mapping[Signal, Tensor]]) -> dict[Signal, Tensor]:
        """Signals by institution -> (B, K) logits and whatever else was asked."""

    def of(self, answers: Answers) -> dict[Signal, Tensor]:
        """The same, of replies."""


@dataclass(frozen=True, eq=False)
class AnsweredBatch:
    """A proposal after it was asked about: what was new of it, and what was answered."""

    proposal: Proposal
    images: Tensor
    """(B, C, H, W) uint8, as they were asked."""
    answers: Answers
    target: Tensor
    """(B, K) fused logits, as they were banked."""
    selected: Tensor | None
    """(B,) bool, which of the samples entered the bank; None: all."""
    labels: LabelSpaces
    fusion: Fusion
    progress: float
    """The student's when the answers came, in [0, 1]."""


FollowUps: TypeAlias = Generator[Request | Proposal, Answers, None]
"""Requests on account of a proposal. A `Request` is put and counted, no more. Of a `Proposal` what
is new is banked and recorded too, and the answers sent back are to that; none where nothing is."""
