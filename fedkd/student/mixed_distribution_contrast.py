"""MixDistribution contrast: a sample and the same with another one's mean and deviation are alike.

Source: KD3 (Tang et al., ICCV 2023), after MixStyle (Zhou et al., ICLR 2021).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.core.checkpoint_state import State, gather, scatter
from fedkd.core.interfaces import BaseStudentPart, Context
from fedkd.errors import SettingsError
from fedkd.losses.nt_xent import nt_xent
from fedkd.models import penultimate_features

PAIRS = 32
"""Samples of a batch that are contrasted: each costs two more passes through the student."""
WIDTH = 128
"""Of the embedding in which views are compared."""
EPSILON = 1e-6
"""Added to a variance, so that a plain image has a deviation."""


@dataclass(frozen=True, eq=False)
class MixedDistributionContrast:
    """The settings.

    Attributes:
        weight: of the contrastive loss, >= 0.
        temperature: of it, > 0.
        concentration: of the Beta distribution of the mixing share, > 0.
    """

    weight: float = 1e-3
    temperature: float = 0.3
    concentration: float = 0.1

    def __post_init__(self) -> None:
        if not (0 <= self.weight < math.inf and min(self.temperature, self.concentration) > 0):
            raise SettingsError(
                f"contrast: weight {self.weight}, temperature {self.temperature}, concentration "
                f"{self.concentration}; expected >= 0, > 0 and > 0"
            )

    def build(self, context: Context) -> "ContrastedViews":
        """The part."""
        return ContrastedViews(self, context)


class ContrastedViews(BaseStudentPart):
    """A linear embedding of the student's features, in which views are compared.

    It learns with the student, from the same loss.

    Args:
        settings: of the loss.
        context: whose student.
    """

    def __init__(self, settings: MixedDistributionContrast, context: Context) -> None:
        self.settings, self._context = settings, context
        context.compute.place(context.student)
        blank = torch.zeros(1, *context.shape, device=context.compute.device)
        with torch.no_grad():
            size = penultimate_features(context.student.eval(), blank).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.embedding = nn.Linear(size, WIDTH).to(context.compute.device)
        self._optimizer = torch.optim.AdamW(self.embedding.parameters(), lr=1.0)
        self._rng = torch.Generator().manual_seed(context.seed)

    def term(self, images: Tensor, logits: Tensor, progress: float) -> Tensor | None:
        """``weight * nt_xent`` of samples and the same with mixed distributions.

        (B,): 0 beyond the first `PAIRS`, which weigh more for it, so that the mean is theirs.
        """
        if not self.settings.weight:
            return None
        x = self._context.compute.pixels(images[:PAIRS])
        count = len(x)
        seed = int(torch.randint(2**62, (), generator=self._rng))
        shares = np.random.default_rng(seed).beta(*(self.settings.concentration,) * 2, count)
        others = torch.randperm(count, generator=self._rng).to(x.device)
        mixed = mixed_distribution(x, others, torch.from_numpy(shares).to(x))
        features = penultimate_features(self._context.student, torch.cat([x, mixed]))
        first, second = self.embedding(features.float()).split(count)
        own = nt_xent(first, second, self.settings.temperature) * (len(images) / count)
        return self.settings.weight * F.pad(own, (0, len(images) - count))

    def follow(self, images: Tensor, target: Tensor, taken: int, progress: float) -> None:
        """The embedding takes the student's step."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._context.plan.rate(taken)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> State:
        """Embedding, momenta and random numbers."""
        return gather(self._parts, {})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        scatter(state, self._parts)

    @property
    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer | torch.Generator]:
        return {"embedding": self.embedding, "optimizer": self._optimizer, "rng": self._rng}


def mixed_distribution(images: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """Images whose mean and deviation, channel by channel, are mixed with those of others.

    ``sigma' (x - mu) / sigma + mu'``, mu' = lambda mu + (1 - lambda) mu_other, sigma' alike, kept
    in [0, 1].

    Args:
        images: x, (B, C, H, W) in [0, 1].
        others: (B,), the place of each one's other image in the batch.
        share: lambda, (B,) in [0, 1].
    """
    mean = images.mean((2, 3), keepdim=True)
    deviation = (images.var((2, 3), keepdim=True, correction=0) + EPSILON).sqrt()
    kept = share.view(-1, 1, 1, 1)
    new_mean = kept * mean + (1 - kept) * mean[others]
    new_deviation = kept * deviation + (1 - kept) * deviation[others]
    return ((images - mean) / deviation * new_deviation + new_mean).clamp(0.0, 1.0)
