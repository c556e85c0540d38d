"""Discriminator between public and generated images, trained beside a generator.

Source: HiDFD (Tang et al., AAAI 2025); hinge and sides are those of ADC-GAN (Hou et al., 2022).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fedkd.core.checkpoint_state import State, gather, scatter
from fedkd.core.device import CPU, Compute
from fedkd.core.interfaces import Context
from fedkd.core.source_types import AnsweredBatch
from fedkd.errors import SettingsError
from fedkd.losses.term import Batch
from fedkd.protocol import Signal
from fedkd.synthesis.public_pool import PublicPool, PublicSamples

WIDTH = 32
"""Channels of its first convolution."""


@dataclass(frozen=True, eq=False)
class Discriminator:
    """The settings.

    Attributes:
        public: the public samples, a source of the same method.
        rate: of its Adam, > 0.
        betas: momenta of it.
        sides: weight of telling apart each class of either side, >= 0.
        integration: weight of agreeing with the teachers on images of both sides, >= 0.
    """

    public: PublicSamples
    rate: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.999)
    sides: float = 1.0
    integration: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf or min(self.sides, self.integration) < 0:
            raise SettingsError(
                f"discriminator: rate {self.rate}, sides {self.sides}, integration "
                f"{self.integration}; expected a rate > 0 and weights >= 0"
            )

    def build(self, context: Context) -> "TrainedDiscriminator":
        """The auxiliary network."""
        public = context.part(self.public)
        network = TrainedDiscriminator(self, public, context.shape, context.classes, context.seed)
        context.compute.place(network.network)
        network.compute = context.compute
        return network


@dataclass(frozen=True, eq=False)
class Side:
    """A batch of public images, or of generated ones."""

    images: Tensor
    """(B, C, H, W) in [0, 1]."""
    logits: Tensor
    """The teachers', (B, K)."""
    classes: Tensor
    """(B,), what they show."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """The discriminator's outputs for a batch."""

    score: Tensor
    """(B,), high: public, low: generated."""
    class_by_side: Tensor
    """(B, 2 K) logits: class c of a public image at 2 c, of a generated one at 2 c + 1."""
    teacher_logits: Tensor
    """(B, K): its estimate of the teachers' logits."""


class Network(nn.Module):
    """Three convolutions, the sum over places, and a head for each part of a `Verdict`.

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
        self.class_by_side = spectral_norm(nn.Linear(wide, 2 * classes))
        self.estimate = nn.Sequential(
            nn.Linear(wide, 4 * wide), nn.ReLU(), nn.Linear(4 * wide, classes)
        )

    def forward(self, x: Tensor) -> Verdict:
        """(B, C, H, W) in [0, 1] -> its outputs."""
        h = self.body(2 * x - 1).sum((2, 3))  # (B, D)
        return Verdict(self.score(h)[:, 0], self.class_by_side(h), self.estimate(h))


class TrainedDiscriminator:
    """A network, its optimiser and what they learn.

    Args:
        settings: how.
        public: the public samples and what was answered to them.
        shape: (C, H, W).
        classes: K.
        seed: of its first weights.
    """

    compute: Compute = CPU

    def __init__(
        self,
        settings: Discriminator,
        public: PublicPool | None,
        shape: tuple[int, int, int],
        classes: int,
        seed: int,
    ) -> None:
        self.settings, self.public = settings, public
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = Network(shape, classes)
        self.optimizer = torch.optim.Adam(self.network.parameters(), settings.rate, settings.betas)

    def observe(
        self, batch: Batch, answered: AnsweredBatch | None, rng: torch.Generator
    ) -> Verdict:
        """Learn from the batch and from as many public samples; then its outputs, with a graph.

        Raises:
            SettingsError: nobody was asked, or images have no class targets.
        """
        targets = batch.class_targets
        if answered is None or self.public is None or targets is None:
            raise SettingsError(
                "a discriminator learns from answers to class-conditional images; choose a "
                "class-conditional network that is trained on answers"
            )
        images, known = self.public.known(len(answered.images), rng)
        logits = batch.teacher[Signal.LOGITS].detach()
        known = known.to(logits.device)
        self.learn(
            Side(self.compute.pixels(images), known, known.argmax(1)),
            Side(self.compute.pixels(answered.images), logits, targets),
        )
        return self.judge(batch.images)

    def views(self, images: Tensor, rng: torch.Generator) -> Tensor | None:
        """None."""
        return None

    def judge(self, images: Tensor) -> Verdict:
        """Outputs for images (B, C, H, W) in [0, 1], with their graph; changes nothing."""
        verdict: Verdict = self.network.eval()(images)
        return verdict

    def learn(self, public: Side, generated: Side) -> float:
        """One step on as many images of either side; returns the loss before it."""
        self.network.train()
        loss = discriminator_loss(
            self.settings,
            (self.network(public.images), public),
            (self.network(generated.images), generated),
        )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return float(loss.detach())

    def stepped(self) -> None:
        """It has learned before the terms did."""

    def finish(self, images: Tensor) -> None:
        """Nothing is kept."""

    def state(self) -> State:
        """Network and momenta."""
        return gather(self._parts, {})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        scatter(state, self._parts)

    @property
    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"network": self.network, "optimizer": self.optimizer}


def discriminator_loss(
    settings: Discriminator, public: tuple[Verdict, Side], generated: tuple[Verdict, Side]
) -> Tensor:
    """The discriminator's loss. ().

    ``relu(1 - D(x)) + relu(1 + D(g)) + CE(side(x), 2 c) + CE(side(g), 2 y + 1)
    + |t(x) - d(x)| + |t(x) - d(g)| + |t(g) - d(g)| + |t(g) - d(x)|``, each a mean over images

    The last four are feature integration: on each side the estimate is drawn to the teachers'
    logits of both, so that a network that knows few public images by heart is wrong about the
    teachers.
    """
    (real, x), (fake, g) = public, generated
    hinge = F.relu(1 - real.score).mean() + F.relu(1 + fake.score).mean()
    sides = F.cross_entropy(real.class_by_side, 2 * x.classes)
    sides = sides + F.cross_entropy(fake.class_by_side, 2 * g.classes + 1)
    apart = [
        torch.linalg.vector_norm(of.logits - by.teacher_logits, dim=1).mean()
        for of in (x, g)
        for by in (real, fake)
    ]
    return hinge + settings.sides * sides + settings.integration * torch.stack(apart).sum()
