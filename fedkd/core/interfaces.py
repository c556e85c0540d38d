"""Interfaces between the loop and the parts of a method: sources, student parts, aggregation.

A *spec* is a frozen value that a method's file holds: the settings of a part. ``build(context)``
makes the part that runs. The loop schedules sources, puts their requests, banks the answers and
counts; everything else is done by parts, none of which the loop knows by name.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.checkpoint_state import State, Stateful
from fedkd.core.device import Compute
from fedkd.core.domain import Domain
from fedkd.core.earlier_student import EarlierStudent
from fedkd.core.public_data import PublicData
from fedkd.core.run_plan import Plan
from fedkd.core.source_types import (
    AnsweredBatch,
    Cost,
    FollowUps,
    Fusion,
    Needs,
    Proposal,
    Turn,
)
from fedkd.core.task import Loss, Task
from fedkd.protocol import Answers, Card, LabelSpaces, Signal

SampleWeights: TypeAlias = Callable[[Tensor, float], Tensor]
"""((B,) losses, the student's progress) -> (B,) weights in [0, 1]: the curriculum."""
Selection: TypeAlias = Callable[[Tensor], Tensor]
"""(B, K) target logits -> (B,) bool: which samples enter the bank; one at least."""
P_co = TypeVar("P_co", covariant=True)
P = TypeVar("P")


class Spec(Protocol[P_co]):
    """The settings of a part: a frozen value that is compared by identity."""

    def build(self, context: "Context") -> P_co:
        """The part that runs. May draw from ``context.rng``; parts are built in order."""


class Source(Stateful, Protocol):
    """Proposes samples, and may learn from the answers."""

    @property
    def cost(self) -> Cost:
        """Of one sample proposed now. Read before each turn: it may change."""

    @property
    def urgent(self) -> bool:
        """Whether it has the turn before any lot is drawn."""

    @property
    def steps(self) -> int:
        """Optimisation steps that it has taken so far, for the record."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it says of itself in the record of each question."""

    def propose(self, turn: Turn) -> Proposal | None:
        """``turn.count`` samples or fewer, or None.

        Called again in the same turn, a few times, where none of the samples is new.
        """

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """Hear the answers to its proposal.

        What needs no request is done before it returns, and stands in the record of the question;
        a generator that is returned begins to run only after that.
        """


class SourceSpec(Spec[Source], Protocol):
    """The settings of a source."""

    @property
    def needs(self) -> Needs:
        """Of everything that it will ever ask."""

    @property
    def cost(self) -> Cost:
        """The most that one sample of it ever costs."""


class StudentPart(Stateful, Protocol):
    """A network beside the student that learns with it, or that it learns from."""

    def prepare(self, rng: torch.Generator) -> None:
        """Called after each question; may train as long as it likes, in the student's stream."""

    def term(self, images: Tensor, logits: Tensor, progress: float) -> Tensor | None:
        """(B,), to be added to the student's loss of each sample; None: nothing.

        Args:
            images: (B, C, H, W), as the student sees them.
            logits: (B, K), the student's.
            progress: the student's.
        """

    def sample_weights(self, logits: Tensor, target: Tensor, progress: float) -> Tensor | None:
        """(B,) >= 0, by which the losses of a batch are multiplied; None: all count alike.

        Args:
            logits: (B, K), the student's.
            target: (B, K).
            progress: the student's.
        """

    def follow(self, images: Tensor, target: Tensor, taken: int, progress: float) -> None:
        """The student has taken step number ``taken`` on these (B, C, H, W) and (B, K)."""


class Aggregation(Stateful, Protocol):
    """Turns the replies of T institutions into one target."""

    def fusion(self, cards: Sequence[Card]) -> Fusion:
        """Of whoever takes part by now."""

    def hear(
        self, answers: Answers, labels: LabelSpaces, selected: Tensor | None, proposal: Proposal
    ) -> None:
        """Answers to a batch, of which the bank keeps ``selected``, (B,) bool; None: all."""

    def improve(self, rng: torch.Generator) -> Tensor | None:
        """New targets (N, K) of all that is banked, oldest first; None: they stay.

        Called once a question and its follow-ups are answered.
        """

    def exclude(self, names: Collection[str], cards: Sequence[Card]) -> Tensor | None:
        """The operator excludes ``names``: forget what they answered.

        Args:
            names: of institutions that will answer nothing any more.
            cards: of whoever takes part or took part, ``names`` included.

        Returns:
            New targets (N, K) of all that is banked, oldest first, without their answers; None:
            nothing is banked.
        """


class AggregationSpec(Spec[Aggregation], Protocol):
    """The settings of an aggregation."""

    def rule_for(self, planned: str) -> str:
        """The fusion rule in use where the plan's is ``planned``, which may be "auto".

        Raises:
            SettingsError: the aggregation cannot use that rule.
        """

    def with_rule(self, rule: str) -> "AggregationSpec":
        """The same with that fusion rule."""


class Prior(Protocol):
    """A distribution of synthetic images that needs no data."""

    def draw(self, count: int, shape: tuple[int, int, int], rng: torch.Generator) -> Tensor:
        """Sample ``count`` images of ``shape`` (C, H, W): (count, C, H, W) uint8 in 0..255.

        Raises:
            SettingsError: a negative count, or a side below 1.
        """


class TeacherInProcess(Protocol):
    """A teacher whose signals come with their graph, see `fedkd.models.ModuleTeacher`."""

    def signals_with_graph(
        self, images: Tensor, signals: frozenset[Signal]
    ) -> Mapping[Signal, Tensor]:
        """The signals of images (B, C, H, W), differentiable in them."""


class Clock(Protocol):
    """Where the run stands; live."""

    @property
    def asked(self) -> int:
        """Samples asked of each institution so far."""

    @property
    def plan(self) -> Plan:
        """How much is asked in all."""

    @property
    def progress(self) -> float:
        """Share of the student's steps that are taken."""


class Record(Protocol):
    """Puts an event into the run's record."""

    def __call__(self, kind: str, **facts: Any) -> None:
        """An event of that kind; facts are JSON values."""


@dataclass(eq=False)
class Context:
    """What the parts of a method are built from."""

    loss: Loss
    sample_weights: SampleWeights
    plan: Plan
    shape: tuple[int, int, int]
    """(C, H, W)."""
    classes: int
    """K."""
    task: Task
    domain: Domain
    student: nn.Module
    """Read, never changed."""
    bank: Bank
    priors: Mapping[str, Prior]
    public: PublicData | None
    """The coordinator's own samples; None: it has none."""
    seed: int
    rng: torch.Generator
    """The sources' random stream; the student has another."""
    compute: Compute
    clock: Clock
    record: Record
    earlier: EarlierStudent | None = None
    """The student of an earlier run that this one goes on with; None: it begins anew."""
    teacher: TeacherInProcess | None = None
    """A teacher in this process, whose signals come with their graph; None: teachers are asked."""
    _built: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def part(self, spec: Spec[P]) -> P:
        """The one part that is built of this very value: how the parts of a method meet."""
        if id(spec) not in self._built:
            self._built[id(spec)] = (spec, spec.build(self))
        part: P = self._built[id(spec)][1]
        return part


class Stateless:
    """Default of parts of which nothing changes."""

    def state(self) -> State:
        """Nothing."""
        return State()

    def restore(self, state: State) -> None:
        """Nothing to do."""


class BaseSource(Stateless):
    """Defaults of a source that learns nothing and asks nothing further."""

    @property
    def cost(self) -> Cost:
        """One question for each sample."""
        return Cost()

    @property
    def urgent(self) -> bool:
        """No."""
        return False

    @property
    def steps(self) -> int:
        """None."""
        return 0

    @property
    def facts(self) -> Mapping[str, Any]:
        """None."""
        return {}

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """Nothing."""
        return None


class BaseStudentPart(Stateless):
    """Defaults of a student part that does nothing."""

    def prepare(self, rng: torch.Generator) -> None:
        """Nothing."""

    def term(self, images: Tensor, logits: Tensor, progress: float) -> Tensor | None:
        """Nothing."""
        return None

    def sample_weights(self, logits: Tensor, target: Tensor, progress: float) -> Tensor | None:
        """All count alike."""
        return None

    def follow(self, images: Tensor, target: Tensor, taken: int, progress: float) -> None:
        """Nothing."""
