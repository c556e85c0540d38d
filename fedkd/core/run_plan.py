"""Plan, progress events and result of a distillation run."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import nn

from fedkd.core.augmentation import NO_AUGMENTATION, Augmentation
from fedkd.core.bank import Bank
from fedkd.core.held_back import check_held_back
from fedkd.core.task import Score
from fedkd.errors import NeedsError, SettingsError
from fedkd.protocol import Card

AUTO: Literal["auto"] = "auto"
AS_TRAINED: Literal["as_trained"] = "as_trained"
UNIFORM: Literal["uniform"] = "uniform"
ClassPrior: TypeAlias = Literal["auto", "as_trained", "uniform"] | tuple[float, ...]
"""Of the fused answer: `AUTO` is uniform for rules that use class counts and as trained for others;
or a share for each class, in the order of the federation's classes."""


EVALUATIONS = 20
"""Fewest evaluations on held-back samples in a run that has as many student steps; below twice as
many come."""
OptimizerName: TypeAlias = Literal["adamw", "muon"]


@dataclass(frozen=True)
class Plan:
    """How much is asked and how long the student learns.

    Args:
        budget: samples asked of each institution, > 0; never exceeded. As many may be pulled back.
        batch: images in a question, > 0.
        steps: student steps, >= 0.
        student_batch: banked images in a student step, > 0.
        asking: share of the student's steps over which the questions are spread, in [0, 1];
            the rest learns from the full bank.
        learning_rate: peak of the student's rate, > 0: 2 % warm-up, then a cosine to zero.
        weight_decay: of its optimiser, decoupled, >= 0.
        capacity: most images in the bank, None for all.
        rule: how replies are fused, see `fedkd.aggregation.fusion_rules`.
        loss: the student's, by name; "auto" for the method's, of numbers the squared one.
        augmentation: of a banked image, anew each time that it is learned; its answer stays.
        held_back: share of the samples that the student never learns from, in [0, 0.5]; on their
            fused answers it is evaluated. 0: none, and nothing is known of it without data.
        prior: class prior of the fused answers, see `ClassPrior`.
        stop: evaluations on held-back samples without a better agreement, after which no more is
            asked, in 1 to `evaluations_while_asking` - 1; see `fedkd.student.early_stopping`. None:
            the whole budget is.
        batch_statistics: whether teachers answer by the statistics of each batch; the student then
            learns from the samples of one whole question in each step.
        optimizer: AdamW, or Muon for hidden layers, see `fedkd.student.optimizers`.
    """

    budget: int
    batch: int = 64
    steps: int = 1000
    student_batch: int = 128
    asking: float = 0.6
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    capacity: int | None = None
    rule: str = "auto"
    loss: str = "auto"
    augmentation: Augmentation = NO_AUGMENTATION
    held_back: float = 0.05
    prior: ClassPrior = AUTO
    stop: int | None = None
    batch_statistics: bool = False
    optimizer: OptimizerName = "adamw"

    def __post_init__(self) -> None:
        for name, least in {"budget": 1, "batch": 1, "student_batch": 1, "steps": 0}.items():
            if (value := getattr(self, name)) < least:
                raise SettingsError(f"expected {name} >= {least}, got {value}")
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise SettingsError(
                f"expected learning_rate > 0 and weight_decay >= 0, got {self.learning_rate} and "
                f"{self.weight_decay}"
            )
        if self.capacity is not None and self.capacity < self.batch:
            raise SettingsError(f"a bank of {self.capacity} cannot hold a batch of {self.batch}")
        if self.batch_statistics and (self.capacity is not None or self.batch < 2):
            raise SettingsError(
                "answers by batch statistics belong to their whole batch; leave questions.capacity "
                f"out and ask about 2 samples at least, got {self.batch}"
            )
        check_held_back(self.held_back)
        check_prior(self.prior)
        if self.stop is not None and (self.stop < 1 or not self.held_back):
            raise SettingsError(
                f"stop {self.stop} with held_back {self.held_back}; expected 1 evaluation or more, "
                "on samples that are held back"
            )
        if not 0 <= self.asking <= 1:
            raise SettingsError(f"expected asking in [0, 1], got {self.asking}")
        if self.stop is not None and self.stop >= (heard := self.evaluations_while_asking):
            raise SettingsError(
                f"questions.stop {self.stop} could never stop: questions are asked in "
                f"{100 * self.asking:g} % of the student's steps, with {heard} evaluations, and "
                "the first of them is the best so far; lower questions.stop, raise "
                "questions.asking, or leave questions.stop out"
            )

    @property
    def evaluation_interval(self) -> int:
        """Student steps from one evaluation on held-back samples to the next, >= 1."""
        return max(1, self.steps // EVALUATIONS)

    @property
    def evaluations_while_asking(self) -> int:
        """Most evaluations on held-back samples before the last question of whole batches."""
        asked_before = self.batch * ((self.budget - 1) // self.batch)
        steps = round(self.asking * asked_before / self.budget * self.steps)
        return steps // self.evaluation_interval

    def check_cards(self, cards: Sequence[Card]) -> None:
        """Refuse institutions that would refuse every question.

        Raises:
            NeedsError: one takes fewer samples in a query than a question has.
        """
        for card in cards:
            if card.largest_batch < self.batch:
                raise NeedsError(
                    f"{card.name} takes {card.largest_batch} samples in one query, and a question "
                    f"has {self.batch}; lower questions.batch, or ask the owner for a larger "
                    "policy.largest_batch"
                )

    def rate(self, step: int) -> float:
        """The student's learning rate in this step: 2 % warm-up, then a cosine to zero."""
        warm = max(1, self.steps // 50)
        if step < warm:
            return self.learning_rate * ((step + 1) / warm)
        share = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (0.5 * (1.0 + math.cos(math.pi * share)))


def check_prior(prior: object) -> ClassPrior:
    """``prior`` as it is used; a list becomes a tuple.

    Raises:
        SettingsError: neither a known word nor shares that are above 0 and sum to 1.
    """
    if prior in (AUTO, AS_TRAINED, UNIFORM):
        return prior
    shares = tuple(prior) if isinstance(prior, list | tuple) else ()
    numbers = all(isinstance(each, int | float) and each > 0 for each in shares)
    if len(shares) < 2 or not numbers or not math.isclose(sum(shares), 1.0, abs_tol=0.01):
        raise SettingsError(
            f'prior {prior!r}; expected "{AUTO}", "{AS_TRAINED}", "{UNIFORM}", or a share above 0 '
            "for each class, together 1"
        )
    return tuple(float(each) for each in shares)


@dataclass(frozen=True)
class Progress:
    """Something happened: a line of the run's record. ``facts`` is JSON by construction."""

    kind: str
    facts: Mapping[str, object]


Watch = Callable[[Progress], None]


@dataclass(frozen=True, eq=False)
class Distilled:
    """What a run leaves."""

    student: nn.Module
    bank: Bank
    asked: int
    """Samples asked of each institution."""
    pulled_back: int
    student_steps: int
    generator_steps: int
    held_back: Mapping[str, Score] = field(default_factory=dict)
    """Of the final student on samples that it never learned from, against their fused answers:
    ``count`` of them and `fedkd.core.task.Task.held_back`. Empty where none was held back."""
    classes: tuple[str, ...] = ()
    """Names of the student's outputs, (K,), in their order."""
    saved: int = 0
    """Samples of the budget that were not asked, because agreement no longer rose."""
