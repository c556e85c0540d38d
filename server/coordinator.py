"""Puts the loop's questions to institutions and keeps what happened. Knows no data and no network.

An engine hands over its cards and one function that answers requests; in one process, through
Flower's simulation or across a network, everything from here on is the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fedkd.errors import QuorumLost
from fedkd.experiment import Experiment
from fedkd.loop import PAUSE, Distilled, Plan, Progress, Watch, distil
from fedkd.methods import Method, make
from fedkd.models import build
from fedkd.priors import Prior, prior
from fedkd.signals import Answers, Card, Refusal, Request
from fedkd.wire.record import Recorder
from server.seat import Struck

Lost = Mapping[str, Refusal | str]
"""Who did not answer, and why."""
Answer = Callable[[Request], tuple[Answers, Lost]]
"""Puts one request to the institutions: their replies, and who is missing."""


@dataclass(frozen=True, eq=False)
class Ingredients:
    """What the coordinator brings to a run, built from an experiment or by hand."""

    student: nn.Module
    method: Method
    plan: Plan
    priors: Mapping[str, Prior]
    seed: int = 0
    quorum: int = 1
    recorder: Recorder | None = None
    """Keeps the replies, where they are to be kept."""


def ingredients(
    experiment: Experiment, card: Card, recorder: Recorder | None = None
) -> Ingredients:
    """Student, method, plan and priors of an experiment, for institutions like ``card``.

    To be called in the thread that will drive the loop: torch counts threads for each thread.

    Raises:
        SettingsError: an unknown name, or an argument that the method does not know.
    """
    torch.set_num_threads(experiment.student.threads)
    student = build(experiment.student.model, card.classes, card.shape, experiment.seed)
    images, questions = experiment.images, experiment.questions
    return Ingredients(
        student,
        make(experiment.method.name, experiment.method.arguments),
        Plan(
            budget=questions.budget,
            batch=questions.batch,
            steps=experiment.student.steps,
            student_batch=experiment.student.batch,
            asking=questions.asking,
            learning_rate=experiment.student.learning_rate,
            weight_decay=experiment.student.weight_decay,
            capacity=questions.capacity,
            rule=questions.rule,
        ),
        {name: prior(name, warp=images.warp, mix=images.mix) for name in images.priors},
        experiment.seed,
        questions.quorum,
        recorder,
    )


@dataclass(eq=False)
class Coordinator:
    """A loop in the making, advanced as far as its driver wants.

    Attributes:
        parts: student, method, plan and priors.
        cards: of the institutions that take part. Whoever answers for them may add to it.
        answer: puts a request to them.
        watch: is told of everything that happens.
    """

    parts: Ingredients
    cards: Sequence[Card]
    answer: Answer
    watch: Watch = lambda progress: None
    done: float = 0.0
    """Share of the student's steps that are taken."""
    latest: dict[str, Any] = field(default_factory=dict)
    """Facts of the last event of each kind, by kind."""
    distilled: Distilled | None = None
    """What the run left, once it has ended."""
    _lost: set[str] = field(default_factory=set)
    _struck: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        parts = self.parts
        self._loop = distil(
            parts.student,
            parts.method,
            self.cards,
            parts.plan,
            parts.priors,
            seed=parts.seed,
            watch=self._note,
        )
        self._request: Request | None = None
        if parts.recorder is not None:
            parts.recorder.begin(tuple(self.cards))

    @property
    def student(self) -> nn.Module:
        """As far as it has learned."""
        return self.parts.student

    def advance(self, until: float = 1.0) -> bool:
        """Run until this share of the student's steps is done; True once the run has ended.

        Raises:
            QuorumLost: fewer institutions than ``quorum`` answered a question.
        """
        try:
            if self._request is None and self.distilled is None:
                self._request = next(self._loop)
            while self.distilled is None and (self.done < until or until >= 1.0):
                self._request = self._loop.send(self._ask(self._request or PAUSE))
        except StopIteration as stop:
            self.distilled, self.done = stop.value, 1.0
        return self.distilled is not None

    def finish(self) -> Distilled:
        """Run to the end."""
        self.advance()
        if self.distilled is None:
            raise RuntimeError("the loop paused for ever")
        return self.distilled

    def _ask(self, request: Request) -> Answers:
        if request == PAUSE:
            return {}
        known = len(self.cards)
        answers, lost = self.answer(request)
        joined = self.cards[known:]
        self._tell_of(joined, answers, lost)
        if len(answers) < self.parts.quorum:
            why = "; ".join(
                f"{n}: {r.text if isinstance(r, Refusal) else r}" for n, r in sorted(lost.items())
            )
            raise QuorumLost(
                f"{len(answers)} of {len(self.cards)} institutions answered, "
                f"{self.parts.quorum} are needed ({why}); lower questions.quorum or bring them back"
            )
        if self.parts.recorder is not None:
            self.parts.recorder.keep(request, answers, joined)
        return answers

    def _tell_of(self, joined: Sequence[Card], answers: Answers, lost: Lost) -> None:
        """Events of who came, went and is back, each told once."""
        for card in joined:
            self.watch(Progress("joined", {"name": card.name}))
        for name in sorted(self._lost & answers.keys()):
            self.watch(Progress("back", {"name": name}))
        self._lost -= answers.keys()
        for name, reason in lost.items():
            kind = "struck" if isinstance(reason, Struck) else "lost"
            if name not in self._lost or (kind == "struck" and name not in self._struck):
                text = reason.text if isinstance(reason, Refusal) else str(reason)
                self.watch(Progress(kind, {"name": name, "reason": text}))
            self._lost.add(name)
            if kind == "struck":
                self._struck.add(name)

    def _note(self, progress: Progress) -> None:
        self.latest[progress.kind] = progress.facts
        if isinstance(done := progress.facts.get("done"), float):
            self.done = done
        self.watch(progress)
