"""Held-back evaluation: the student against fused answers to samples that it never learned from.

It needs no data, so a coordinator has it in every run: while the student learns, as a warning, and
of the final student. It measures how well the student follows the institutions on samples such as
were asked about; it does not measure how often they are right, nor real data.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch

from fedkd.core.bank import Bank
from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import Record
from fedkd.core.run_plan import Plan
from fedkd.core.task import Score, Task
from fedkd.student.early_stopping import EarlyStopping
from fedkd.student.training import Trainer

HeldBackScores: TypeAlias = Mapping[str, Score]
"""``count`` of samples, and `fedkd.core.task.Task.held_back` of them; empty without samples."""

RECENT = 256
"""Most samples of an evaluation, the latest: all would cost a long run much."""
RECENT_TO_STOP = 1024
"""Most samples where questions may be stopped: chance would decide on fewer."""
MOST = 16_384
"""Most samples of the final evaluation, the latest."""
_AT_ONCE = 1024


def main_score(scores: HeldBackScores) -> float | None:
    """Agreement, R^2 of numbers, or the correlation of relations."""
    known = [scores.get(name) for name in ("agreement", "r2", "relation_correlation")]
    return next((value for value in known if isinstance(value, float)), None)


class HeldBackEvaluation:
    """Evaluates the student on what the bank holds back; draws no random number.

    Args:
        bank: with fused answers, as they stand at each evaluation.
        trainer: of the student.
        task: by whose scores.
        plan: of the run; its ``stop`` is the patience of `EarlyStopping`, which hears each score
            while questions are asked.
        record: gets an event "held_back" for each evaluation, and "stopped" once.
    """

    def __init__(
        self, bank: Bank, trainer: Trainer, task: Task, plan: Plan, record: Record
    ) -> None:
        self._bank, self._trainer, self._task, self._record = bank, trainer, task, record
        self._steps, self._interval = plan.steps, plan.evaluation_interval
        self._stopping = EarlyStopping(plan.stop)
        self._recent = RECENT if plan.stop is None else RECENT_TO_STOP

    @property
    def stopped(self) -> bool:
        """Whether no more questions are to be asked."""
        return self._stopping.stopped

    def student_step(self, step: int, *, asking: bool = False) -> None:
        """The student has taken step number ``step``, from 1: evaluate it where that is due.

        Args:
            step: at the last one, on more samples.
            asking: whether questions are still asked, so that they may be stopped.
        """
        if step % self._interval and step != self._steps:
            return
        if scores := self.scores(MOST if step == self._steps else self._recent):
            self._record("held_back", step=step, **scores)
            if asking and self._stopping.hear(main_score(scores)):
                self._record("stopped", step=step)

    def scores(self, most: int = MOST) -> HeldBackScores:
        """Of the student as it is, on the ``most`` latest samples, > 0."""
        images, fused = self._bank.held_back(most)
        if not len(images):
            return {}
        sizes = self._bank.held_back_sizes(most) or _AT_ONCE
        outputs = [self._trainer.logits(piece) for piece in torch.split(images, sizes)]
        student, fused = torch.cat(outputs), fused.cpu()
        parts = self._bank.comparable(most)
        scored = [self._task.held_back(student[at], fused[at]) for at in parts]
        weights = [len(at) for at in parts]
        return {"count": len(images), **{n: _mean(n, scored, weights) for n in scored[0]}}

    def state(self) -> State:
        """What early stopping knows."""
        return self._stopping.state()

    def restore(self, state: State) -> None:
        """Stop as when ``state`` was taken."""
        self._stopping.restore(state)


def _mean(name: str, scored: Sequence[Mapping[str, Score]], weights: Sequence[int]) -> Score:
    """The mean of a score over parts; None where no part has it."""
    if len(scored) == 1:
        return scored[0][name]
    pairs = [(s[name], w) for s, w in zip(scored, weights, strict=True)]
    known = [(score, weight) for score, weight in pairs if isinstance(score, float)]
    total = sum(weight for _, weight in known)
    return sum(score * weight for score, weight in known) / total if total else None
