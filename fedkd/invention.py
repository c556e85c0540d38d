"""A generator in training: what its images were worth, and its step towards better ones.

Knows the terms of a method and where gradients come from; neither the bank nor the budget.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fedkd.collected import Collected
from fedkd.critic import Critic, Shown
from fedkd.ensemble import Fusion
from fedkd.errors import SettingsError
from fedkd.generators import Generator as ImageGenerator
from fedkd.gradients import Point
from fedkd.impressions import Similarity
from fedkd.labels import Labels
from fedkd.methods.method import Method
from fedkd.methods.terms import Batch
from fedkd.signals import Answers, Request, Signal, as_float
from fedkd.sources import Drawn, Generated, Kept
from fedkd.state import Part, State


@dataclass(frozen=True, eq=False)
class Heard:
    """A batch that was asked about, and all that its terms may read."""

    drawn: Drawn
    """As it was invented, with its graph."""
    images: Tensor
    """(B, C, H, W) uint8, as they were asked."""
    answers: Answers
    selected: Tensor | None
    """(B,) which of the images count, None for all."""
    labels: Labels
    fusion: Fusion
    progress: float


@dataclass(frozen=True)
class Improved:
    """What one step of a generator came to."""

    terms: Mapping[str, float]
    """Value of each term, without its weight."""
    pulled_back: int
    """Samples that were pulled back."""
    asked: int
    """Further samples that were asked about."""


class Invention:
    """A generator, its optimiser, and what its terms remember.

    Args:
        method: the paper.
        student: read in its terms, never changed.
        shape: (C, H, W).
        seed: of the generator's first weights.
        count: most images in a batch.
        classes: K.
        collected: what a critic knows of images; None where the method has none.
    """

    def __init__(
        self,
        method: Method,
        student: nn.Module,
        shape: tuple[int, int, int],
        seed: int,
        count: int,
        classes: int,
        collected: Collected | None = None,
    ) -> None:
        self.method, self.student, self.collected = method, student, collected
        canvas = method.canvas
        with torch.random.fork_rng(devices=[]):  # layers initialise from the global stream only
            torch.manual_seed(seed)
            self.painter = canvas.module(count, method.latent, shape, classes)
        self._average = self._similarity = self._critic = None
        if canvas.averaging:
            decay = get_ema_multi_avg_fn(canvas.averaging)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(self.painter, multi_avg_fn=decay, use_buffers=True)
        if method.impressions:
            self._similarity = Similarity(method.impressions, classes)
        if method.critic:
            self._critic = Critic(method.critic, shape, classes, seed)
        self.source: Generated | Kept = (
            Generated(self.painter, classes * canvas.wants, self._average)
            if isinstance(self.painter, ImageGenerator)
            else Kept(canvas, self.painter, count, classes, self._similarity)
        )
        self.optimizer = torch.optim.Adam(
            self.painter.parameters(), method.generator_rate, method.generator_betas
        )
        self._previous: dict[str, Tensor] = {}

    @property
    def parts(self) -> dict[str, Part]:
        """All of it that changes, by the name that it has in a state."""
        parts: dict[str, Part] = {
            "generator": self.painter,
            "generator_optimizer": self.optimizer,
        }
        if any(term.memory is not None for _, term in self.method.objective):
            parts["memory"] = self
        if isinstance(self.source, Kept):
            parts["wanted"] = self.source
        if self._average is not None:
            parts["average"] = self._average
        if self._similarity is not None:
            parts["similarity"] = self._similarity
        return parts | (self._critic.parts if self._critic else {})

    def begin(self, rng: torch.Generator) -> None:
        """An epoch: where one batch is kept for that long, begin another."""
        if isinstance(self.source, Kept):
            self.source.begin(rng)
            self.optimizer.state.clear()

    def state(self) -> State:
        """What its terms remember."""
        return State({name: each.clone() for name, each in self._previous.items()})

    def restore(self, state: State) -> None:
        """Remember what was remembered when ``state`` was taken."""
        self._previous = {name: each.clone() for name, each in state.tensors.items()}

    def improve(
        self, heard: Heard, step: int, rng: torch.Generator
    ) -> Generator[Request, Answers, Improved]:
        """One step, the ``step``-th from 0, on the method's objective; asks what it must."""
        gradient = self.method.gradient
        self.student.eval()
        pixels = as_float(heard.images).requires_grad_()
        student = self.student(pixels)  # (B, K)
        leaves = {
            name: {s: v.float().detach().requires_grad_() for s, v in reply.signals.items()}
            for name, reply in heard.answers.items()
        }
        said: Mapping[str, Mapping[Signal, Tensor]] = leaves
        if gradient.believes_student:
            said = {name: {Signal.LOGITS: heard.labels.own(name, student)} for name in leaves}
        fused = heard.fusion(said)
        if self._critic:
            self._criticise(self._critic, heard, fused[Signal.LOGITS].detach(), rng)
        batch = Batch(
            *(pixels, fused, student),
            heard.selected,
            heard.drawn.wanted,
            self._previous,
            self._critic.judge(pixels) if self._critic else None,
        )
        terms = self._backward(batch, heard.progress)
        through_student = pixels.grad if pixels.grad is not None else torch.zeros_like(pixels)
        cotangents = {
            name: {s: v.grad for s, v in of.items() if v.grad is not None}
            for name, of in leaves.items()
        }
        through_teachers, paid = torch.zeros_like(pixels), 0
        if any(cotangents.values()):
            point = Point(heard.images, heard.answers, cotangents, self.student, rng, heard.labels)
            through_teachers = yield from gradient.pull(point)
            paid = len(pixels)
        self._descend(heard.drawn.images, through_student + through_teachers)
        self._remember(batch, step)
        return Improved(terms, paid * gradient.pulls_back, paid * gradient.questions)

    def rehearse(self, count: int, progress: float, rng: torch.Generator) -> dict[str, float]:
        """Begin an epoch and take its steps, the student in the place of every teacher.

        Asks nothing. Returns the value of each term at the last step.
        """
        self.begin(rng)
        self.student.eval()
        self.source.learning, terms = True, {}
        for _ in range(self.method.rehearsals):
            drawn = self.source.draw(count, rng)
            said = self.student(drawn.images)
            self.optimizer.zero_grad(set_to_none=True)
            batch = Batch(drawn.images, {Signal.LOGITS: said}, said, wanted=drawn.wanted)
            terms = self._backward(batch, progress)
            self.optimizer.step()
        self.source.learning = False
        return terms

    def _backward(self, batch: Batch, progress: float) -> dict[str, float]:
        """Gradients of the weighted objective into every leaf; the terms' values."""
        objective = self.method.objective
        terms = {term.name: term.value(batch) for _, term in objective}
        loss = torch.stack([weight(progress) * terms[term.name] for weight, term in objective])
        torch.autograd.backward(loss.sum())
        return {name: float(value.detach()) for name, value in terms.items()}

    def _descend(self, graph: Tensor, gradient: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(graph, gradient)
        self.optimizer.step()
        if self._average is not None and isinstance(self.painter, ImageGenerator):
            self._average.update_parameters(self.painter)

    def _criticise(self, critic: Critic, heard: Heard, said: Tensor, rng: torch.Generator) -> None:
        """Let the critic learn from this batch, and from as many images that were collected."""
        if self.collected is None or heard.drawn.wanted is None:
            raise SettingsError("a critic needs collected images, and a canvas that wants classes")
        images, targets = self.collected.known(len(heard.images), rng)
        critic.learn(
            Shown(as_float(images), targets, targets.argmax(1)),
            Shown(as_float(heard.images), said, heard.drawn.wanted),
        )

    @torch.no_grad()
    def _remember(self, batch: Batch, step: int) -> None:
        """Once in an epoch, as its second step is taken: the first tells of the one before."""
        if step % self.method.epoch != min(1, self.method.epoch - 1):
            return
        for _, term in self.method.objective:
            if term.memory is not None:
                self._previous[term.name] = term.memory(batch)
