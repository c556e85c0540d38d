"""A generator in training: what its images were worth, and its step towards better ones.

Knows the terms of a method and where gradients come from; neither the bank nor the budget.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.compute import CPU, Compute
from fedkd.ensemble import Fusion
from fedkd.generators import Generator as ImageGenerator
from fedkd.gradients import Point
from fedkd.labels import Labels
from fedkd.methods.method import Method
from fedkd.methods.terms import Batch
from fedkd.signals import Answers, Request, Signal
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
        compute: where the student is, and this.
    """

    def __init__(
        self,
        method: Method,
        student: nn.Module,
        shape: tuple[int, int, int],
        seed: int,
        count: int,
        classes: int,
        compute: Compute = CPU,
    ) -> None:
        self.method, self.student, self.compute = method, student, compute
        with torch.random.fork_rng(devices=[]):  # layers initialise from the global stream only
            torch.manual_seed(seed)
            self.painter = method.canvas.module(count, method.latent, shape)
        compute.place(self.painter)
        self.source: Generated | Kept = (
            Generated(self.painter)
            if isinstance(self.painter, ImageGenerator)
            else Kept(method.canvas, self.painter, count, classes)
        )
        self.optimizer = torch.optim.Adam(
            self.painter.parameters(),
            method.generator_rate,
            method.generator_betas,
            fused=compute.fused,
        )
        self._previous: dict[str, float] = {}

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
        return parts

    def begin(self, rng: torch.Generator) -> None:
        """An epoch: where one batch is kept for that long, begin another."""
        if isinstance(self.source, Kept):
            self.source.begin(rng)
            self.optimizer.state.clear()

    def state(self) -> State:
        """What its terms remember."""
        return State(numbers={"previous": dict(self._previous)})

    def restore(self, state: State) -> None:
        """Remember what was remembered when ``state`` was taken."""
        self._previous = dict(state.numbers["previous"])

    def improve(
        self, heard: Heard, step: int, rng: torch.Generator
    ) -> Generator[Request, Answers, Improved]:
        """One step, the ``step``-th from 0, on the method's objective; asks what it must."""
        gradient, device = self.method.gradient, self.compute.device
        self.student.eval()
        pixels = self.compute.pixels(heard.images).requires_grad_()
        student = self._say(pixels)  # (B, K)
        leaves = {
            name: {s: v.float().detach().requires_grad_() for s, v in reply.signals.items()}
            for name, reply in heard.answers.items()
        }
        said: Mapping[str, Mapping[Signal, Tensor]] = leaves
        if gradient.believes_student:
            said = {name: {Signal.LOGITS: heard.labels.own(name, student.cpu())} for name in leaves}
        batch = Batch(
            *(pixels, {s: v.to(device) for s, v in heard.fusion(said).items()}, student),
            *(_on(heard.selected, device), _on(heard.drawn.wanted, device)),
            self._previous,
        )
        terms = self._backward(batch, heard.progress)
        through_student = pixels.grad if pixels.grad is not None else torch.zeros_like(pixels)
        cotangents = {
            name: {s: v.grad for s, v in of.items() if v.grad is not None}
            for name, of in leaves.items()
        }
        through_teachers, paid = torch.zeros_like(pixels), 0
        if any(cotangents.values()):
            point = Point(
                *(heard.images, heard.answers, cotangents),
                *(lambda x: self._say(x).cpu(), rng, heard.labels),
            )
            pulled = yield from gradient.pull(point)
            through_teachers = pulled.to(device)
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
            said = self._say(drawn.images)
            self.optimizer.zero_grad(set_to_none=True)
            batch = Batch(
                drawn.images, {Signal.LOGITS: said}, said, wanted=_on(drawn.wanted, said.device)
            )
            terms = self._backward(batch, progress)
            self.optimizer.step()
        self.source.learning = False
        return terms

    def _say(self, images: Tensor) -> Tensor:
        """The student's (B, K); a slope is taken of images alone, its weights cost nothing."""
        weights = [weight for weight in self.student.parameters() if weight.requires_grad]
        for weight in weights:
            weight.requires_grad_(False)
        said = self.compute.say(self.student, images)
        for weight in weights:
            weight.requires_grad_(True)
        return said

    def _backward(self, batch: Batch, progress: float) -> dict[str, float]:
        """Gradients of the weighted objective into every leaf; the terms' values."""
        objective = self.method.objective
        terms = {term.name: term.value(batch) for _, term in objective}
        loss = torch.stack([weight(progress) * terms[term.name] for weight, term in objective])
        torch.autograd.backward(loss.sum())
        values = torch.stack([value.detach() for value in terms.values()]).tolist()  # one wait
        return dict(zip(terms, values, strict=True))

    def _descend(self, graph: Tensor, gradient: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(graph, gradient)
        self.optimizer.step()

    @torch.no_grad()
    def _remember(self, batch: Batch, step: int) -> None:
        """Once in an epoch, as its second step is taken: the first tells of the one before."""
        if step % self.method.epoch != min(1, self.method.epoch - 1):
            return
        for _, term in self.method.objective:
            if term.memory is not None:
                self._previous[term.name] = float(term.memory(batch))


def _on(value: Tensor | None, device: torch.device) -> Tensor | None:
    return None if value is None else value.to(device)
