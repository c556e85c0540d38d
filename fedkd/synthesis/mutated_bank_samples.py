"""Sample source that mixes or shifts banked samples on which the student's loss is highest."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedkd.core.interfaces import BaseSource, Context
from fedkd.core.source_types import ANYTHING, AnsweredBatch, Cost, FollowUps, Needs, Proposal, Turn
from fedkd.synthesis.prior_sampling.prior_source import PriorChoice, ProceduralPriors


@dataclass(frozen=True, eq=False)
class Evolution:
    """The settings.

    Attributes:
        priors: what new material comes from; the very value that is a source of the method.
        noise: share of a prior in a child, in [0, 1].
    """

    priors: ProceduralPriors
    noise: float = 0.3
    needs: ClassVar[Needs] = Needs(tasks=ANYTHING)
    cost: ClassVar[Cost] = Cost()

    def build(self, context: Context) -> "EvolvedBank":
        """The source."""
        return EvolvedBank(self.noise, context.part(self.priors), context)


class EvolvedBank(BaseSource):
    """Children of banked samples: pairs mixed, or one mutated, with some of a prior added.

    Parents are the images on which the student is furthest from the answer, among a random few.

    Args:
        noise: share of a prior in a child.
        prior: what new material comes from.
        context: bank, student and loss.
    """

    def __init__(self, noise: float, prior: PriorChoice, context: Context) -> None:
        self.noise, self.prior, self._context = noise, prior, context

    def propose(self, turn: Turn) -> Proposal | None:
        """Children; the prior's own while parents are few or a prior was never tried."""
        count, rng, bank = turn.count, turn.rng, self._context.bank
        ripe = len(bank) >= 4 * count and not self.prior.untried
        fresh = self.prior.draw(count, rng)
        if not ripe:
            return fresh
        images, targets = bank.draw(4 * count, rng)
        if len(images) < 2 * count:  # a bank that draws one question has no more of it
            return fresh
        hardest = self._losses(images, targets).topk(2 * count).indices
        mother, father = images[hardest].cpu().float().chunk(2)
        paired = (torch.rand(count, generator=rng) < 0.5).view(-1, 1, 1, 1)
        share = torch.rand(count, 1, 1, 1, generator=rng)
        mutant = self._context.domain.mutated(mother, rng)
        child = torch.where(paired, share * mother + (1 - share) * father, mutant)
        child = (1 - self.noise) * child + self.noise * fresh.images.float()
        return Proposal(child.round().clamp(0, 255).to(torch.uint8), "evolution")

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """The bank keeps children; what a prior drew is the prior's to hear."""
        return self.prior.learn(answered)

    @torch.no_grad()
    def _losses(self, images: Tensor, targets: Tensor) -> Tensor:
        """The student's loss on each image, (B,)."""
        context = self._context
        with context.compute.evaluation(context.student):
            return context.loss(context.compute.logits(context.student, images), targets)
