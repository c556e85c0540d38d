"""Surrogate steps: a generator learns from the student in the teachers' place, and asks nobody.

Source: IDEAL (Zhang et al., ICLR 2023) and DisGUIDE (Rosenthal et al., AAAI 2023). The student of
an earlier run is another surrogate, as in DF-GR (Choi et al., CVPR Workshops 2021).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import Context, Selection, TeacherInProcess
from fedkd.core.source_types import AnsweredBatch, Cost, FollowUps, Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.losses.term import Batch
from fedkd.protocol import Signal
from fedkd.student.peer_students import Peers
from fedkd.synthesis.trained_generator_source import (
    DirectStep,
    TrainedGenerator,
    TrainedSource,
)


@dataclass(frozen=True, eq=False)
class SurrogateTrained(TrainedGenerator):
    """Settings of a generator that takes steps on a surrogate before each of its questions.

    Attributes:
        surrogate_steps: before each question, >= 1; nobody is asked in them, and nothing is
            learned from the answers.
        voters: peers of the student that are the surrogate together with it; None: the student is.
        keeps_best: whether the images of the surrogate step of least loss are asked about; else
            they are drawn after the last step.
    """

    surrogate_steps: int = 1
    voters: Peers | None = None
    keeps_best: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        free = self.gradient.believes_student or self.gradient.believes_earlier_student
        if self.surrogate_steps < 1 or not free:
            raise SettingsError(
                f'{self.surrogate_steps} surrogate steps with gradient "{self.gradient.name}"; '
                'expected >= 1, and "student", which alone asks nobody'
            )

    def build(self, context: Context) -> "SurrogateSource":
        """The source."""
        return SurrogateSource(self, context)


class SurrogateSource(TrainedSource):
    """A generator that has learned before it asks.

    Args:
        settings: of it.
        context: of the run.
    """

    def __init__(self, settings: SurrogateTrained, context: Context) -> None:
        _check_earlier_student(settings, context)
        super().__init__(settings, context)
        self.surrogate = settings
        self._stepped_at = -1
        self._best: Tensor | None = None

    @property
    def cost(self) -> Cost:
        """One question for each sample."""
        return Cost()

    @property
    def asks_to_learn(self) -> bool:
        """Never: answers are for the student."""
        return False

    def propose(self, turn: Turn) -> Proposal | None:
        """Take the surrogate steps, once in a turn, then draw."""
        clock = self.context.clock
        if self.learning and self._stepped_at != clock.asked:
            self._stepped_at = clock.asked
            self.train(turn)
        proposal = super().propose(turn)
        if proposal is None or self._best is None:
            return proposal
        return replace(proposal, images=self._best)

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """Nothing; the student does."""
        self.target.hear(answered.target)
        return None

    def train_directly(
        self, turn: Turn, teacher: TeacherInProcess, selection: Selection | None
    ) -> DirectStep:
        """All surrogate steps of a batch; then the teacher says what it shows."""
        self.train(turn)
        images = self._best
        if images is None:
            images = self.target.draw_unasked(turn.count, turn.rng, True).float()
        with torch.no_grad():
            logits = teacher.signals_with_graph(images, frozenset({Signal.LOGITS}))[Signal.LOGITS]
        return DirectStep(images, logits, 0.0, True)

    def train(self, turn: Turn) -> None:
        """Begin a batch and take its steps."""
        self.begin()
        terms: dict[str, float] = {}
        least = math.inf
        for _ in range(self.surrogate.surrogate_steps):
            drawn = self.target.draw(turn.count, turn.rng, True)
            student = self.context.compute.frozen_logits(self.context.student, drawn.images)
            self.optimizer.zero_grad(set_to_none=True)
            own = {Signal.LOGITS: student}
            batch = self.batch(drawn.images, own, student, drawn.class_targets, None)
            batch = self._surrogate(batch)
            terms = self.backward(batch, turn.progress)
            self.optimizer.step()
            loss = self.total(terms, turn.progress)
            if self.surrogate.keeps_best and loss < least:
                least, self._best = loss, drawn.images.detach()
        self.note(self.surrogate.surrogate_steps, terms, turn.progress)

    def _surrogate(self, batch: Batch) -> Batch:
        """The same with the surrogate in the teachers' place, where it is not the student itself.

        That is the earlier student, or the vote of all students where there are voters.
        """
        if self.surrogate.gradient.believes_earlier_student:
            return replace(batch, teacher=self._of_earlier_student(batch))
        if (voters := self.surrogate.voters) is None:
            return batch
        # Terms have mostly asked the peers already: one forward pass, and one order of its sums.
        students = batch.readings.get(id(voters))
        if students is None:
            students = self.context.part(voters).observe(batch, None, self.context.rng)
        return replace(batch, teacher={Signal.LOGITS: vote(students)})

    def _of_earlier_student(self, batch: Batch) -> Mapping[Signal, Tensor]:
        """All signals that a term needs, with their graph."""
        if (earlier := self.context.earlier) is None:
            raise SettingsError("a generator learns from an earlier student, and there is none")
        needed = frozenset(signal for _, term in self.settings.terms for signal in term.needs)
        return earlier.differentiable(batch.images, needed)

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken, between two turns."""
        super().restore(state)
        self._stepped_at = -1


def _check_earlier_student(settings: SurrogateTrained, context: Context) -> None:
    """Check that an earlier student gives what terms need, where they read it.

    Raises:
        SettingsError: it has no such signal.
    """
    if context.earlier is None or not settings.gradient.believes_earlier_student:
        return
    for _, term in settings.terms:
        if missing := term.needs - context.earlier.card.signals:
            raise SettingsError(
                f"term {term.name} needs {', '.join(sorted(missing))}, which the earlier student's "
                f"network does not have; set the weight of {term.name} to 0"
            )


def vote(students: Tensor) -> Tensor:
    """Log of the mean probability, of logits (M, B, K). (B, K)."""
    return students.log_softmax(2).logsumexp(0) - math.log(len(students))
