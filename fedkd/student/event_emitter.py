"""Event emitter of a run: what is recorded of each question and of the student's steps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import Clock
from fedkd.core.run_plan import Progress, Watch
from fedkd.core.source_types import AnsweredBatch
from fedkd.core.task import Loss, Task
from fedkd.evaluation import class_entropy
from fedkd.protocol import Signal
from fedkd.student.self_paced_curriculum import Curriculum

STEP_EVENTS = 200
"""Fewest events about student steps, of a run that has as many; below twice as many come."""


class RunEvents:
    """Makes the events of a run, and adds up what they say of all questions so far.

    Args:
        watch: gets every event.
        clock: of the run; every event says how much is asked and how much is done.
        loss: the student's.
        curriculum: weights of samples in it.
        task: what the answers are.
    """

    def __init__(
        self, watch: Watch, clock: Clock, loss: Loss, curriculum: Curriculum, task: Task
    ) -> None:
        self._watch, self._clock = watch, clock
        self._loss, self._curriculum = loss, curriculum
        self._task = task
        self._class_counts = torch.zeros(task.bins, dtype=torch.long)
        self._institution_losses: dict[str, float] = {}

    def record(self, kind: str, **facts: object) -> None:
        """An event of that kind; facts are JSON values."""
        clock = self._clock
        self._watch(Progress(kind, {"asked": clock.asked, "done": clock.progress, **facts}))

    def question(self, answered: AnsweredBatch, student: Tensor, facts: Mapping[str, Any]) -> None:
        """A question and its answers: kind "asked".

        Args:
            answered: what was asked and answered.
            student: its logits for the samples, (B, K); how far they are from each institution's,
                on that one's classes, is in the record of the steps that follow.
            facts: of the sources.
        """
        for name, reply in answered.answers.items():
            logits = reply.signals[Signal.LOGITS].float()  # (B, K_i)
            each = self._loss(*answered.labels.comparable(name, student, logits))
            self._institution_losses[name] = float(each.mean())
        self._class_counts += self._task.histogram(answered.target)
        self.record(
            "asked",
            origin=answered.proposal.origin,
            count=len(answered.images),
            entropy=class_entropy([self._class_counts]),
            **facts,
        )

    def student_step(self, step: int, loss: Tensor, weight: Tensor) -> None:
        """A student step: kind "trained", for at least `STEP_EVENTS` of all steps.

        Args:
            step: its number, from 1.
            loss: (B,), of each sample.
            weight: (B,), of each sample.
        """
        if step % max(1, self._clock.plan.steps // STEP_EVENTS):
            return
        curriculum = self._curriculum
        paced = {"curriculum_lambda": curriculum.lambda_at(self._clock.progress)}
        self.record(
            "trained",
            step=step,
            loss=float((weight * loss).mean()),
            difficulty=float(loss.mean()),
            weight=float(weight.mean()),
            **(paced if curriculum.weighs else {}),
            difficulty_by_institution=dict(sorted(self._institution_losses.items())),
        )

    def state(self) -> State:
        """What was added up."""
        losses = dict(self._institution_losses)
        return State({"class_counts": self._class_counts.clone()}, {"losses": losses})

    def restore(self, state: State) -> None:
        """Add to what there was when ``state`` was taken."""
        self._class_counts = state.tensors["class_counts"].clone()
        self._institution_losses = dict(state.numbers["losses"])
