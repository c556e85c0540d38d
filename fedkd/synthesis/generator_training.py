"""A generator in training: what its images were worth, and its step towards better ones.

Knows the terms of a method and where gradients come from; neither the bank nor the budget.
"""

import math
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fedkd.aggregation.fusion import Fusion
from fedkd.core.compute import CPU, Compute
from fedkd.core.state import Part, State
from fedkd.errors import SettingsError
from fedkd.losses.term import Batch
from fedkd.methods.method import Method
from fedkd.models import Generator as ImageGenerator
from fedkd.models import Latents
from fedkd.protocol import Answers, LabelSpaces, Request, Signal
from fedkd.synthesis.data_impressions import Similarity
from fedkd.synthesis.discriminator import Critic, Shown
from fedkd.synthesis.gradients import Point
from fedkd.synthesis.instance_discrimination import Discriminator
from fedkd.synthesis.meta_initialisation import Common
from fedkd.synthesis.public_samples import Collected
from fedkd.synthesis.sources import Drawn, Generated, Kept


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
    labels: LabelSpaces
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
        peers: of the student, read as it is.
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
        compute: Compute = CPU,
        peers: Iterable[nn.Module] = (),
        collected: Collected | None = None,
    ) -> None:
        self.method, self.student, self.compute = method, student, compute
        self.peers, self.collected, canvas = peers, collected, method.canvas
        with torch.random.fork_rng(devices=[]):  # layers initialise from the global stream only
            torch.manual_seed(seed)
            self.painter = canvas.build(count, method.latent, shape, classes)
        compute.place(self.painter)
        self._average = self._similarity = self._critic = None
        if canvas.averaging:
            decay = get_ema_multi_avg_fn(canvas.averaging)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(self.painter, multi_avg_fn=decay, use_buffers=True)
        if method.impressions:
            self._similarity = Similarity(method.impressions, classes)
        if method.critic:
            self._critic = Critic(method.critic, shape, classes, seed)
            compute.place(self._critic.network)
        self.source: Generated | Kept = (
            Generated(self.painter, classes * canvas.conditional, self._average)
            if isinstance(self.painter, ImageGenerator)
            else Kept(canvas, self.painter, count, classes, self._similarity)
        )
        self.optimizer = self._optimizer()
        self._previous: dict[str, Tensor] = {}
        self._common: Common | None = None
        if method.reuse and isinstance(self.painter, Latents):
            network, betas = self.painter.generator, method.generator_betas
            self._common = Common(method.reuse, network, betas)
        self._discriminator: Discriminator | None = None
        if method.discrimination:
            self._discriminator = Discriminator(method.discrimination, student, shape, seed)

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
        further: dict[str, Part | None] = {
            "common": self._common,
            "discrimination": self._discriminator,
            "average": self._average,
            "similarity": self._similarity,
        }
        parts |= {name: part for name, part in further.items() if part is not None}
        return parts | (self._critic.parts if self._critic else {})

    def begin(self, rng: torch.Generator) -> None:
        """An epoch: where one batch is kept for that long, begin another."""
        if not isinstance(self.source, Kept):
            return
        self.source.begin(rng)
        if self._common:
            self._common.begin()
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
        gradient, device = self.method.gradient, self.compute.device
        pixels = self.compute.pixels(heard.images).requires_grad_()
        student, students = self._students(pixels)
        leaves = {
            name: {s: v.float().detach().requires_grad_() for s, v in reply.signals.items()}
            for name, reply in heard.answers.items()
        }
        said: Mapping[str, Mapping[Signal, Tensor]] = leaves
        if gradient.believes_student:
            said = {
                name: {Signal.LOGITS: heard.labels.to_local(name, student.cpu())} for name in leaves
            }
        fused = {signal: value.to(device) for signal, value in heard.fusion(said).items()}
        if self._critic:
            self._criticise(self._critic, heard, fused[Signal.LOGITS].detach(), rng)
        batch = Batch(
            *(pixels, fused, student),
            *(_on(heard.selected, device), _on(heard.drawn.wanted, device)),
            self._previous,
            students=students,
            distinctness=self._distinctness(pixels, rng),
            judged=self._critic.judge(pixels) if self._critic else None,
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
                *(lambda x: self._say(self.student, x).cpu(), rng, heard.labels),
            )
            pulled = yield from gradient.pull(point)
            through_teachers = pulled.to(device)
            paid = len(pixels)
        self._descend(heard.drawn.images, through_student + through_teachers)
        self._remember(batch, step)
        if (step + 1) % self.method.epoch == 0:
            self._finish(heard.images)
        return Improved(terms, paid * gradient.pulls_back, paid * gradient.questions)

    def rehearse(self, count: int, progress: float, rng: torch.Generator) -> dict[str, float]:
        """Begin an epoch and take its steps, the student or the vote of all of them for a teacher.

        Asks nothing. Returns the value of each term at the last step.
        """
        self.begin(rng)
        self.source.learning, terms = True, {}
        for _ in range(self.method.rehearsals):
            drawn = self.source.draw(count, rng)
            student, students = self._students(drawn.images)
            said = {Signal.LOGITS: student if students is None else vote(students)}
            self.optimizer.zero_grad(set_to_none=True)
            batch = Batch(
                *(drawn.images, said, student),
                wanted=_on(drawn.wanted, student.device),
                previous=self._previous,
                students=students,
                distinctness=self._distinctness(drawn.images, rng),
            )
            terms = self._backward(batch, progress)
            self.optimizer.step()
        self.source.learning = False
        return terms

    def _students(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the student says, (B, K), and what all say, (M, B, K); None where it is alone."""
        said = [self._say(network, images) for network in (self.student, *self.peers)]
        return said[0], torch.stack(said) if len(said) > 1 else None

    def _say(self, network: nn.Module, images: Tensor) -> Tensor:
        """Its (B, K); a slope is taken of images alone, its weights cost nothing."""
        weights = [weight for weight in network.eval().parameters() if weight.requires_grad]
        for weight in weights:
            weight.requires_grad_(False)
        said = self.compute.say(network, images)
        for weight in weights:
            weight.requires_grad_(True)
        return said

    def _backward(self, batch: Batch, progress: float) -> dict[str, float]:
        """Gradients of the weighted objective into every leaf; the terms' values."""
        objective = self.method.objective
        terms = {term.name: term.value(batch) for _, term in objective}
        loss = torch.stack([weight(progress) * terms[term.name] for weight, term in objective])
        torch.autograd.backward(loss.sum())
        if self._discriminator:
            self._discriminator.learn()
        values = torch.stack([value.detach() for value in terms.values()]).tolist()  # one wait
        return dict(zip(terms, values, strict=True))

    def _descend(self, graph: Tensor, gradient: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(graph, gradient)
        if self._common:
            self._common.note()
        self.optimizer.step()
        if self._average is not None and isinstance(self.painter, ImageGenerator):
            self._average.update_parameters(self.painter)

    def _criticise(self, critic: Critic, heard: Heard, said: Tensor, rng: torch.Generator) -> None:
        """Let the critic learn from this batch, and from as many images that were collected."""
        if self.collected is None or heard.drawn.wanted is None:
            raise SettingsError("a critic needs collected images, and a canvas that wants classes")
        images, targets = self.collected.known(len(heard.images), rng)
        targets, wanted = targets.to(said.device), heard.drawn.wanted.to(said.device)
        critic.learn(
            Shown(self.compute.pixels(images), targets, targets.argmax(1)),
            Shown(self.compute.pixels(heard.images), said, wanted),
        )

    def _finish(self, images: Tensor) -> None:
        """An epoch ends with ``images``, (B, C, H, W) uint8."""
        if self._common:
            self._common.learn()
        if self._discriminator:
            self._discriminator.keep(images)

    def _optimizer(self) -> torch.optim.Adam:
        """Of what paints; latents that reuse a network have a rate of their own."""
        method, painter = self.method, self.painter
        if method.reuse is None or not isinstance(painter, Latents):
            groups: list[dict[str, Any]] = [{"params": list(painter.parameters())}]
        else:
            groups = [
                {"params": list(painter.generator.parameters())},
                {"params": [painter.latents], "lr": method.reuse.latent_rate},
            ]
        return torch.optim.Adam(
            groups, method.generator_rate, method.generator_betas, fused=self.compute.fused
        )

    def _distinctness(self, images: Tensor, rng: torch.Generator) -> Tensor | None:
        """(), where somebody tells images apart."""
        return self._discriminator.distinctness(images, rng) if self._discriminator else None

    @torch.no_grad()
    def _remember(self, batch: Batch, step: int) -> None:
        """Once in an epoch, as its second step is taken: the first tells of the one before."""
        if step % self.method.epoch != min(1, self.method.epoch - 1):
            return
        for _, term in self.method.objective:
            if term.memory is not None:
                self._previous[term.name] = term.memory(batch)


def _on(value: Tensor | None, device: torch.device) -> Tensor | None:
    return None if value is None else value.to(device)


def vote(students: Tensor) -> Tensor:
    """Log of the mean probability, of logits (M, B, K). (B, K)."""
    return students.log_softmax(2).logsumexp(0) - math.log(len(students))
