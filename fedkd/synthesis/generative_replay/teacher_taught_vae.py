"""Generative replay by the teacher's answers: an auto-encoder that one institution teaches.

Source: PRE-DFKD (Binici et al., AAAI 2022). What is decoded is asked about and pulled back, or goes
through a teacher in this process.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.core.interfaces import Context, TeacherInProcess
from fedkd.core.source_types import AnsweredBatch, Cost, FollowUps, Needs, Proposal, Turn
from fedkd.protocol import Answers, Ask, Request, Signal, as_float
from fedkd.synthesis.generative_replay.student_taught_vae import (
    GenerativeReplay,
    ReplayedSamples,
    divergence,
    moments,
    worth,
)
from fedkd.synthesis.parameterisation import to_bytes
from fedkd.synthesis.teacher_gradients import PULL_BACK, DroppedGradients, Point

LOGITS = frozenset({Signal.LOGITS})
DECODED = 2
"""Images that are learned again in a step of the auto-encoder, for each that is replayed: the
paper's 5/8 of a batch in four of ten steps, beside an eighth of one that is replayed in each."""


@dataclass(frozen=True, eq=False)
class TeacherReplay(GenerativeReplay):
    """The settings of a replay whose answers are the teacher's."""

    needs: ClassVar[Needs] = Needs(pull_back=True)

    @property
    def cost(self) -> Cost:
        """Latents as drawn and as stepped are asked about, and all that is decoded."""
        decoded = DECODED * self.steps
        return Cost(asked=2 + decoded, pulled_back=1 + decoded)

    def build(self, context: Context) -> "TeacherReplayedSamples":
        """The source."""
        return TeacherReplayedSamples(self, context)


class TeacherReplayedSamples(ReplayedSamples):
    """An auto-encoder that learns by the teacher's answers, and draws images like those asked.

    Args:
        settings: how it learns.
        context: of the run; with a teacher in this process nobody is asked.
    """

    def __init__(self, settings: TeacherReplay, context: Context) -> None:
        super().__init__(settings, context)
        self._cost, self._teacher, self._rng = settings.cost, context.teacher, context.rng
        self._dropped = DroppedGradients(context.record)
        self._z = torch.empty(0)

    @property
    def cost(self) -> Cost:
        """Of what it proposes and asks on its account."""
        return self._cost

    def propose(self, turn: Turn) -> Proposal | None:
        """What latents show as they were drawn; where the teacher is here, what is replayed."""
        if self._teacher is not None:
            return Proposal(self._through(self._teacher, turn), "replay")
        self.decoder.eval()
        self._z = self._latents(turn.count, turn.rng)
        return Proposal(self.decoder(self._z)[: turn.count], "replay")

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """Step the latents by the answers, propose what they show then, and learn what is new."""
        if not answered.proposal.images.requires_grad:
            return None
        return self._follow_up(answered)

    def _follow_up(self, answered: AnsweredBatch) -> FollowUps:
        images, weight = answered.proposal.images, self.settings.balance_weight
        slope = yield from self._slope(
            answered.images, answered.answers, answered, lambda y: worth(images.detach(), y, weight)
        )
        torch.autograd.backward(images, slope.to(images))
        torch.autograd.backward(moments(self._z))
        if self._z.grad is not None:
            self.step_latents(self._z, self._z.grad)
        with torch.no_grad():
            replayed = self.decoder(self._z)[: len(images)]
        yield Proposal(to_bytes(replayed), "replay")
        new, target = self._new()
        for _ in range(self.settings.steps):
            which = torch.randperm(len(new), generator=self._rng)[: DECODED * len(images)]
            if len(which) > 1:  # one image alone has no variance for batch norm
                x = as_float(new[which.to(new.device)]).to(self._device)
                yield from self._learn_asking(x, target[which.to(target.device)], answered)

    def _learn_asking(self, x: Tensor, target: Tensor, answered: AnsweredBatch) -> FollowUps:
        """One step of the auto-encoder on images (B, C, H, W) that were answered ``target``."""
        drawn, prior = self._decoded(x, self._rng)
        asked = to_bytes(drawn)
        answers = yield Ask(asked, LOGITS, exact=True)
        if not answers:
            return
        alike = target.to(self._device)
        slope = yield from self._slope(asked, answers, answered, lambda y: F.l1_loss(y, alike))
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.l1_loss(drawn, x) + prior, retain_graph=True)
        torch.autograd.backward(drawn, slope.to(drawn))
        self.optimizer.step()

    def _slope(
        self,
        asked: Tensor,
        answers: Answers,
        of: AnsweredBatch,
        loss: Callable[[Tensor], Tensor],
    ) -> Generator[Request, Answers, Tensor]:
        """D loss / d images through the teacher, (B, C, H, W): pulled back.

        Args:
            asked: (B, C, H, W) uint8.
            answers: to them, exact.
            of: whose fusion and label spaces count.
            loss: of the fused answer (B, K).
        """
        leaves = {
            name: {Signal.LOGITS: reply.signals[Signal.LOGITS].float().detach().requires_grad_()}
            for name, reply in answers.items()
        }
        torch.autograd.backward(loss(of.fusion(leaves)[Signal.LOGITS].to(self._device)))
        cotangents = {
            name: {Signal.LOGITS: grad}
            for name, own in leaves.items()
            if (grad := own[Signal.LOGITS].grad) is not None
        }
        nobody = torch.Generator()  # a pull-back draws nothing
        point = Point(
            *(asked, answers, cotangents, self.student, nobody, of.labels), dropped=self._dropped
        )
        return (yield from PULL_BACK.pull(point))

    def _through(self, teacher: TeacherInProcess, turn: Turn) -> Tensor:
        """Learn what is new, and draw, through a teacher in this process."""

        def answer(images: Tensor) -> Tensor:
            return teacher.signals_with_graph(images, LOGITS)[Signal.LOGITS]

        new, target = self._new()
        for _ in range(self.settings.steps):
            which = torch.randperm(len(new), generator=turn.rng)[: DECODED * turn.count]
            if len(which) > 1:
                x = as_float(new[which.to(new.device)]).to(self._device)
                drawn, prior = self._decoded(x, turn.rng)
                alike = F.l1_loss(answer(drawn), target[which.to(target.device)].to(self._device))
                self.optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(F.l1_loss(drawn, x) + alike + prior)
                self.optimizer.step()
        self.decoder.eval()
        z = self._latents(turn.count, turn.rng)
        images = self.decoder(z)
        loss = moments(z) + worth(images, answer(images), self.settings.balance_weight)
        self.step_latents(z, *torch.autograd.grad(loss, z))
        with torch.no_grad():
            replayed: Tensor = self.decoder(z)
        return replayed[: turn.count]

    def _latents(self, count: int, rng: torch.Generator) -> Tensor:
        """Z ~ N(0, 1), (B, Z), two at least: moments of a batch are measured."""
        z = torch.randn(max(2, count), self.settings.latent, generator=rng)
        return z.to(self._device).requires_grad_()

    def _new(self) -> tuple[Tensor, Tensor]:
        """What has entered the bank since it was last read, and its answers."""
        new = self.bank.newest_answered(self.bank.added - self._learned)
        self._learned = self.bank.added
        return new

    def _decoded(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images of the codes of ``x``, with their graph, and the weighted divergence of codes."""
        self.encoder.train()
        self.decoder.train()
        mean, log_variance = self.encoder(x)
        noise = torch.randn(mean.shape, generator=rng).to(mean)
        drawn = self.decoder(mean + (0.5 * log_variance).exp() * noise)
        return drawn, self.settings.prior_weight * divergence(mean, log_variance)
