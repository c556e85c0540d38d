"""Sample source that is trained: a loss of the teachers' answers, and optimiser steps on it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import Part, State, gather, scatter
from fedkd.core.interfaces import BaseSource, Context, Selection, TeacherInProcess
from fedkd.core.schedules import expect_weights
from fedkd.core.source_types import AnsweredBatch, Cost, FollowUps, Needs, Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.losses.term import Batch, Objective
from fedkd.protocol import Signal
from fedkd.synthesis.auxiliary_networks.interface import AuxiliaryNetworks
from fedkd.synthesis.features_of_views import asked_views, pulled_views
from fedkd.synthesis.parameterisation import ParameterisationSpec, to_bytes
from fedkd.synthesis.teacher_gradients import Cotangents, DroppedGradients, Gradient, Point

FEATURES = frozenset({Signal.FEATURES})
NO_VIEWS: Mapping[int, Tensor] = {}


@dataclass(frozen=True, eq=False)
class TrainedGenerator:
    """The settings: terms are minimised over a synthesis target, by answers of the teachers.

    Attributes:
        terms: each minimised, each with a schedule of weights >= 0; auxiliary networks come with
            them.
        gradient: where d loss / d images comes from, see `fedkd.synthesis.teacher_gradients`.
        target: what is trained.
        rate: learning rate of its Adam, > 0.
        betas: its momenta.
        until: share of the questions after which it learns no more, in (0, 1].
        student_training: whether the student is in training mode in its steps.
    """

    terms: Objective
    gradient: Gradient
    target: ParameterisationSpec
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    until: float = 1.0
    student_training: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf or not 0 < self.until <= 1:
            raise SettingsError(
                f"generator: rate {self.rate}, until {self.until}; expected > 0 and in (0, 1]"
            )
        if not self.terms:
            raise SettingsError("a generator without terms cannot learn; give one a weight above 0")
        for schedule, term in self.terms:
            expect_weights(f"weight of {term.name}", schedule)
            beyond = term.needs - {Signal.LOGITS}
            if beyond and not (self.gradient.pulls_back or self.gradient.believes_earlier_student):
                raise SettingsError(
                    f"term {term.name} needs the gradient of {', '.join(sorted(beyond))}, which "
                    f'only gradient = "pull_back" gives; choose that, or set the weight of '
                    f"{term.name} to 0"
                )

    @property
    def needs(self) -> Needs:
        """Signals of its terms, and pull-backs where its gradient needs them."""
        tasks = frozenset.intersection(*(term.tasks for _, term in self.terms))
        if self.gradient.believes_earlier_student:
            return Needs(tasks=tasks, earlier_student=True)
        signals = {signal: f"term {term.name}" for _, term in self.terms for signal in term.needs}
        reads = any(term.needs or term.views for _, term in self.terms)
        pull_back = self.gradient.pulls_back and reads
        return Needs(pull_back=pull_back, tasks=tasks) | Needs(signals, tasks=tasks)

    @property
    def cost(self) -> Cost:
        """While it learns."""
        views = sum(term.views for _, term in self.terms)
        return Cost(1 + self.gradient.questions + views, int(self.needs.pull_back) + views)

    def build(self, context: Context) -> "TrainedSource":
        """The source."""
        return TrainedSource(self, context)


@dataclass(frozen=True, eq=False)
class DirectStep:
    """What a step without questions has left: its images and the teacher's logits for them."""

    images: Tensor
    """(B, C, H, W), off the graph."""
    logits: Tensor
    """(B, K), off the graph."""
    loss: float
    finished: bool
    """Whether it was the last step on its batch."""


class TrainedSource(BaseSource):
    """A synthesis target, its optimiser, its auxiliary networks, and what its terms have captured.

    Args:
        settings: of it.
        context: of the run.
    """

    def __init__(self, settings: TrainedGenerator, context: Context) -> None:
        self.settings, self.context = settings, context
        self.target = settings.target.build(context)
        self.auxiliary = AuxiliaryNetworks([term for _, term in settings.terms], context)
        self.optimizer = torch.optim.Adam(
            list(self.target.groups()),
            settings.rate,
            settings.betas,
            fused=context.compute.fused,
        )
        self._captured: dict[str, Tensor] = {}
        self._dropped = DroppedGradients(context.record)
        self._steps = 0
        self.begin()

    @property
    def cost(self) -> Cost:
        """What a step takes, while it learns."""
        return self.settings.cost if self.learning else Cost()

    @property
    def steps(self) -> int:
        """Its optimiser's."""
        return self._steps

    @property
    def learning(self) -> bool:
        """Whether it still learns, after so many questions."""
        clock = self.context.clock
        return clock.asked < self.settings.until * clock.plan.budget

    def propose(self, turn: Turn) -> Proposal | None:
        """Samples as the target draws them; with a graph while it learns."""
        drawn = self.target.draw(turn.count, turn.rng, self.asks_to_learn)
        targets, last = drawn.class_targets, (self._steps + 1) % self.target.steps_per_batch == 0
        exact = drawn.images.requires_grad
        return Proposal(
            drawn.images,
            "generator",
            frozenset(self.settings.needs.signals) if exact else frozenset({Signal.LOGITS}),
            drawn.recipe,
            targets,
            targets if last and targets is not None and targets.ndim == 1 else None,
        )

    @property
    def asks_to_learn(self) -> bool:
        """Whether it learns from answers now."""
        return self.learning

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """One step, where its samples carry a graph."""
        self.target.hear(answered.target)
        return self._step(answered) if answered.proposal.images.requires_grad else None

    def train_directly(
        self, turn: Turn, teacher: TeacherInProcess, selection: Selection | None
    ) -> DirectStep:
        """One step through a teacher in this process: one graph, nobody is asked, nothing rounded.

        Args:
            turn: how many images; its progress decides the terms' weights.
            teacher: on the device of the student.
            selection: the method's, which terms may read.
        """
        context, compute = self.context, self.context.compute
        with compute.autocast():
            drawn = self.target.draw(turn.count, turn.rng, True)
        images = drawn.images.float()
        signals = teacher.signals_with_graph(images, frozenset(self.settings.needs.signals))
        logits = signals[Signal.LOGITS].detach()
        self.target.hear(logits.cpu())
        student = self._student_logits(images)
        views = {
            of: (context.teacher or teacher).signals_with_graph(each, FEATURES)[Signal.FEATURES]
            for of, each in self.auxiliary.views(images, context.rng).items()
        }
        batch = replace(
            self.batch(images, signals, student, drawn.class_targets, None, views),
            selected=selection(logits) if selection else None,
        )
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.backward(batch, turn.progress)
        self.target.backward()
        self.optimizer.step()
        self.target.stepped()
        finished = self._end_step(batch, lambda: to_bytes(images))
        self.note(1, terms, turn.progress)
        if finished:
            self.begin()
        return DirectStep(images.detach(), logits, self.total(terms, turn.progress), finished)

    def total(self, terms: Mapping[str, float], progress: float) -> float:
        """The loss: the terms' values, weighted."""
        return sum(weight(progress) * terms[term.name] for weight, term in self.settings.terms)

    def begin(self) -> None:
        """Begin a batch, with momenta as new where everything begins anew."""
        if self.target.begin(self.context.rng):
            self.optimizer.state.clear()

    def batch(
        self,
        images: Tensor,
        teacher: Mapping[Signal, Tensor],
        student: Tensor,
        class_targets: Tensor | None,
        answered: AnsweredBatch | None,
        views: Mapping[int, Tensor] = NO_VIEWS,
    ) -> Batch:
        """What terms are told, once auxiliary networks have looked at it."""
        device = student.device
        selected = None if answered is None else _on(answered.selected, device)
        plain = Batch(
            *(images, teacher, student, selected, _on(class_targets, device), self._captured),
            groups=self.context.task.groups,
            views=views,
        )
        return replace(plain, readings=self.auxiliary.observe(plain, answered, self.context.rng))

    def backward(self, batch: Batch, progress: float) -> dict[str, float]:
        """Gradients of the weighted terms into every leaf; the terms' values."""
        objective = self.settings.terms
        terms = {term.name: term.value(batch) for _, term in objective}
        loss = torch.stack([weight(progress) * terms[term.name] for weight, term in objective])
        torch.autograd.backward(loss.sum())
        self.auxiliary.stepped()
        values = torch.stack([value.detach() for value in terms.values()]).tolist()  # one wait
        return dict(zip(terms, values, strict=True))

    def note(self, steps: int, terms: Mapping[str, float], progress: float) -> None:
        """Count ``steps``, and put the terms' values and weights at the last into the record."""
        self._steps += steps
        weights = {term.name: weight(progress) for weight, term in self.settings.terms}
        self.context.record("generated", step=self._steps, terms=dict(terms), weights=weights)

    def _step(self, answered: AnsweredBatch) -> FollowUps:
        """One step on the terms; asks what it must for the teachers' part of the gradient."""
        compute, gradient = self.context.compute, self.settings.gradient
        pixels = compute.pixels(answered.images).requires_grad_()
        student = self._student_logits(pixels)
        leaves = {
            name: {s: v.float().detach().requires_grad_() for s, v in reply.signals.items()}
            for name, reply in answered.answers.items()
        }
        signals: Mapping[str, Mapping[Signal, Tensor]] = leaves
        if gradient.believes_student:
            own = student.cpu()
            signals = {n: {Signal.LOGITS: answered.labels.to_local(n, own)} for n in leaves}
        fused = {s: value.to(compute.device) for s, value in answered.fusion(signals).items()}
        targets = answered.proposal.class_targets
        views = self.auxiliary.views(pixels, self.context.rng)
        seen = yield from asked_views(views, answered.answers)
        batch = self.batch(pixels, fused, student, targets, answered, seen)
        terms = self.backward(batch, answered.progress)
        yield from pulled_views(views, seen, answered.answers, self._dropped)
        through_student = pixels.grad if pixels.grad is not None else torch.zeros_like(pixels)
        found = {
            name: {s: v.grad for s, v in of.items() if v.grad is not None}
            for name, of in leaves.items()
        }
        # Whoever is left out of the fusion has no part in the loss, and is not asked.
        cotangents: Cotangents = {name: own for name, own in found.items() if own}
        through_teachers = torch.zeros_like(pixels)
        if cotangents:
            through_teachers = (yield from gradient.pull(self._point(answered, cotangents))).to(
                compute.device
            )
        self._descend(answered.proposal.images, through_student + through_teachers)
        last = self._end_step(batch, lambda: answered.images)
        self.note(1, terms, answered.progress)
        if last:
            self.begin()

    def _student_logits(self, pixels: Tensor) -> Tensor:
        return self.context.compute.frozen_logits(
            self.context.student, pixels, training=self.settings.student_training
        )

    def _end_step(self, batch: Batch, images: Callable[[], Tensor]) -> bool:
        """What a step leaves behind; whether it was the last on its batch.

        Args:
            batch: what terms were told.
            images: makes the batch's (B, C, H, W) uint8, where they are wanted.
        """
        self._capture(batch)
        last = (self._steps + 1) % self.target.steps_per_batch == 0
        if last:
            self.target.finish()
            self.auxiliary.finish(images())
        return last

    def _point(self, answered: AnsweredBatch, cotangents: Cotangents) -> Point:
        return Point(
            *(answered.images, answered.answers, cotangents),
            *(lambda x: self._student_logits(x).cpu(), self.context.rng),
            answered.labels,
            self._dropped,
        )

    def _descend(self, graph: Tensor, gradient: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(graph, gradient)
        self.target.backward()
        self.optimizer.step()
        self.target.stepped()

    @torch.no_grad()
    def _capture(self, batch: Batch) -> None:
        """Let terms capture, at the second step of their interval: the first tells of the last."""
        for _, term in self.settings.terms:
            at = min(1, term.capture_interval - 1)
            if term.capture is not None and self._steps % term.capture_interval == at:
                self._captured[term.name] = term.capture(batch)

    def state(self) -> State:
        """Target, optimiser, auxiliary networks, and what terms have captured."""
        dropped = sorted(self._dropped.names)
        state = gather(self._parts, {"steps": self._steps, "dropped": dropped})
        captured = {f"captured/{name}": each.clone() for name, each in self._captured.items()}
        return State({**state.tensors, **captured}, state.numbers)

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        own = scatter(state, self._parts)
        self._steps, self._dropped.names = own["steps"], set(own.get("dropped", ()))
        start = "captured/"
        self._captured = {
            name[len(start) :]: each.clone()
            for name, each in state.tensors.items()
            if name.startswith(start)
        }

    @property
    def _parts(self) -> dict[str, Part]:
        own: dict[str, Part] = {"target": self.target, "optimizer": self.optimizer}
        return {**own, **self.auxiliary.parts}


def _on(value: Tensor | None, device: torch.device) -> Tensor | None:
    return None if value is None else value.to(device)
