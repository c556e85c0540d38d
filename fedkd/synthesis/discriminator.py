"""A discriminator between images that were collected and images that are invented.

Knows images and what the teachers said of them; neither the teachers nor who invented.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fedkd.core.state import Part
from fedkd.errors import SettingsError

WIDTH = 32
"""Channels of its first convolution."""


@dataclass(frozen=True)
class Rivalry:
    """How a critic learns.

    Attributes:
        rate: of its Adam, > 0.
        betas: momenta of it.
        sides: weight of telling apart each class of either side, >= 0.
        integration: weight of agreeing with the teachers on images of both sides, >= 0.
    """

    rate: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.999)
    sides: float = 1.0
    integration: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf or min(self.sides, self.integration) < 0:
            raise SettingsError(
                f"critic: rate {self.rate}, sides {self.sides}, integration {self.integration}; "
                "expected a rate > 0 and weights >= 0"
            )


@dataclass(frozen=True, eq=False)
class Shown:
    """A batch of one side."""

    images: Tensor
    """(B, C, H, W) in [0, 1]."""
    said: Tensor
    """The teachers' logits, (B, K)."""
    classes: Tensor
    """(B,), what they show."""


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a critic says of a batch."""

    score: Tensor
    """(B,), high: collected, low: invented."""
    sides: Tensor
    """(B, 2 K) logits: class c of what was collected at 2 c, of what was invented at 2 c + 1."""
    beliefs: Tensor
    """(B, K): what the teachers would say, as far as it knows."""


class Network(nn.Module):
    """Three convolutions, the sum over places, and a head for each part of a `Judgement`.

    Args:
        shape: (C, H, W).
        classes: K.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        wide = 2 * WIDTH
        self.body = nn.Sequential(
            spectral_norm(nn.Conv2d(shape[0], WIDTH, 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(WIDTH, wide, 3, stride=2, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(wide, wide, 3, padding=1)),
            nn.LeakyReLU(0.2),
        )
        self.score = spectral_norm(nn.Linear(wide, 1))
        self.sides = spectral_norm(nn.Linear(wide, 2 * classes))
        self.beliefs = nn.Sequential(
            nn.Linear(wide, 4 * wide), nn.ReLU(), nn.Linear(4 * wide, classes)
        )

    def forward(self, x: Tensor) -> Judgement:
        """(B, C, H, W) in [0, 1] -> what it says of them."""
        h = self.body(2 * x - 1).sum((2, 3))  # (B, D)
        return Judgement(self.score(h)[:, 0], self.sides(h), self.beliefs(h))


class Critic:
    """A network, its optimiser and what they learn.

    Args:
        rivalry: how.
        shape: (C, H, W).
        classes: K.
        seed: of its first weights.
    """

    def __init__(
        self, rivalry: Rivalry, shape: tuple[int, int, int], classes: int, seed: int
    ) -> None:
        self.rivalry = rivalry
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Network(shape, classes)
        self.optimizer = torch.optim.Adam(self.network.parameters(), rivalry.rate, rivalry.betas)

    @property
    def parts(self) -> dict[str, Part]:
        """All of it that changes, by the name that it has in a state."""
        return {"critic": self.network, "critic_optimizer": self.optimizer}

    def judge(self, images: Tensor) -> Judgement:
        """Of images (B, C, H, W) in [0, 1], with their graph; changes nothing."""
        judgement: Judgement = self.network.eval()(images)
        return judgement

    def learn(self, collected: Shown, invented: Shown) -> float:
        """One step on as many images of either side; returns the loss before it."""
        self.network.train()
        loss = rivals_apart(
            self.rivalry,
            (self.network(collected.images), collected),
            (self.network(invented.images), invented),
        )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return float(loss.detach())


def rivals_apart(
    rivalry: Rivalry, collected: tuple[Judgement, Shown], invented: tuple[Judgement, Shown]
) -> Tensor:
    """The critic's loss. ().

    ``relu(1 - D(x)) + relu(1 + D(g)) + CE(side(x), 2 c) + CE(side(g), 2 y + 1)
    + |t(x) - d(x)| + |t(x) - d(g)| + |t(g) - d(g)| + |t(g) - d(x)|``, each a mean over images

    The last four are feature integration: each side's beliefs are drawn to what the teachers say
    of both, so that a critic that knows few collected images by heart is wrong about the teachers.

    Source: HiDFD (Tang et al., AAAI 2025); hinge and sides are those of ADC-GAN (Hou et al., 2022).
    """
    (real, x), (fake, g) = collected, invented
    hinge = F.relu(1 - real.score).mean() + F.relu(1 + fake.score).mean()
    sides = F.cross_entropy(real.sides, 2 * x.classes)
    sides = sides + F.cross_entropy(fake.sides, 2 * g.classes + 1)
    apart = [
        torch.linalg.vector_norm(of.said - by.beliefs, dim=1).mean()
        for of in (x, g)
        for by in (real, fake)
    ]
    return hinge + rivalry.sides * sides + rivalry.integration * torch.stack(apart).sum()
