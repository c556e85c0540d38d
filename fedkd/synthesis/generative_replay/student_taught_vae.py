"""Generative replay as a source: a variational auto-encoder of what was asked about.

Source: PRE-DFKD (Binici et al., AAAI 2022), in which the teacher stands where the student does.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.core.checkpoint_state import State, gather, scatter
from fedkd.core.device import device_of
from fedkd.core.interfaces import BaseSource, Context
from fedkd.core.source_types import Cost, Needs, Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.losses.class_prior import class_balance, one_hot
from fedkd.losses.term import Batch
from fedkd.models import Generator
from fedkd.protocol import Signal, as_float

SMALLEST_SIDE = 4
"""Pixels: its networks halve images twice."""
WIDTH = 32
"""Channels of the encoder."""
OWN = 4
"""For so many images that were asked about, one of its own is learned again."""


@dataclass(frozen=True, eq=False)
class GenerativeReplay:
    """The settings.

    Attributes:
        latent: Z, >= 1.
        steps: of the auto-encoder for each batch that was asked about, >= 1.
        rate: of its Adam, > 0.
        latent_rate: of the one step by which latents become something to replay, > 0.
        balance_weight: of the class balance in that step, >= 0.
        prior_weight: of the divergence of latents from N(0, 1), >= 0.
    """

    latent: int
    steps: int
    rate: float
    latent_rate: float
    balance_weight: float
    prior_weight: float
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        rates, weights = (self.rate, self.latent_rate), (self.balance_weight, self.prior_weight)
        if not (
            all(0 < rate < math.inf for rate in rates)
            and all(0 <= weight < math.inf for weight in weights)
            and min(self.steps, self.latent) >= 1
        ):
            raise SettingsError(f"{self!r} is out of range; see its docstring")

    @property
    def cost(self) -> Cost:
        """One question for each sample."""
        return Cost()

    def build(self, context: Context) -> "ReplayedSamples":
        """The source.

        Raises:
            SettingsError: samples that its networks cannot read, as rows of a table are.
        """
        if min(context.shape[1:]) < SMALLEST_SIDE:
            raise SettingsError(
                f"samples of shape {context.shape}; replay needs images of at least "
                f"{SMALLEST_SIDE}x{SMALLEST_SIDE}, so choose another method for rows of a table"
            )
        return ReplayedSamples(self, context)


class Encoder(nn.Module):
    """Images (B, C, H, W) in [0, 1] -> mean and log-variance of their latents, (B, Z) each.

    Args:
        latent: Z.
        shape: (C, H, W).
    """

    def __init__(self, latent: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        self.body = nn.Sequential(
            nn.Conv2d(channels, WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH),
            nn.LeakyReLU(0.2),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1),
            nn.BatchNorm2d(2 * WIDTH),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        size = 2 * WIDTH * ((height + 1) // 2) * ((width + 1) // 2)
        self.mean, self.log_variance = nn.Linear(size, latent), nn.Linear(size, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> (B, Z), (B, Z)."""
        seen = self.body(2.0 * x - 1.0)
        return self.mean(seen), self.log_variance(seen)


class ReplayedSamples(BaseSource):
    """An auto-encoder that learns what was asked about, and draws images like it.

    Before it draws it learns from every batch that has entered the bank since it drew last, and
    from some images of its own, so that it does not forget either: an image drawn from its code
    is to look like it, and the student is to answer both alike. What it draws is what the student
    would be surest of, of every class alike.

    Args:
        settings: how it learns.
        context: whose bank has what was asked about, and whose student is read, never changed.
    """

    def __init__(self, settings: GenerativeReplay, context: Context) -> None:
        self.settings, self.bank = settings, context.bank
        self.student, self._compute = context.student, context.compute
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.encoder = Encoder(settings.latent, context.shape)
            self.decoder = Generator(settings.latent, context.shape)
        self._device = device_of(context.student)
        self.encoder.to(self._device)
        self.decoder.to(self._device)
        weights = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.Adam(weights, settings.rate)
        self._learned = 0

    def propose(self, turn: Turn) -> Proposal | None:
        """Images that it replays, after it has learned what is new."""
        new = self.bank.newest(self.bank.added - self._learned)
        for start in range(0, len(new), turn.count):
            batch = as_float(new[start : start + turn.count].to(self._device))
            for _ in range(self.settings.steps):
                self.learn_from(batch, turn.rng)
        self._learned = self.bank.added
        return Proposal(self._replayed(turn.count, turn.rng), "replay")

    def learn_from(self, images: Tensor, rng: torch.Generator) -> float:
        """One step on ``images`` (B, C, H, W) in [0, 1] and some of its own; the loss before it."""
        images = torch.cat([images, self._replayed(len(images) // OWN + 1, rng)])
        self.encoder.train()
        self.decoder.train()
        mean, log_variance = self.encoder(images)
        noise = torch.randn(mean.shape, generator=rng).to(mean)
        loss = self.loss(images, mean, log_variance, noise)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return float(loss.detach())

    def loss(self, images: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
        """Of a code, ``|D(z) - x| + |S(D(z)) - S(x)| + weight KL(code || N(0, 1))``. ().

        Args:
            images: x, (B, C, H, W) in [0, 1].
            mean: of their codes, (B, Z).
            log_variance: of their codes, (B, Z).
            noise: (B, Z), with which z is drawn.
        """
        drawn = self.decoder(mean + (0.5 * log_variance).exp() * noise)
        with self._compute.evaluation(self.student):
            with torch.no_grad():
                answer = self.student(images)
            answered = self.student(drawn)
        alike = F.l1_loss(drawn, images) + F.l1_loss(answered, answer)
        return alike + self.settings.prior_weight * divergence(mean, log_variance)

    def state(self) -> State:
        """Both networks, their momenta, and how much of the bank they have learned."""
        return gather(self._parts, {"learned": self._learned})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        self._learned = scatter(state, self._parts)["learned"]

    def _replayed(self, count: int, rng: torch.Generator) -> Tensor:
        """Images of latents that took one step towards what is worth replaying."""
        self.decoder.eval()
        z = (
            torch.randn(max(2, count), self.settings.latent, generator=rng)
            .to(self._device)
            .requires_grad_()
        )
        images = self.decoder(z)
        with self._compute.evaluation(self.student):
            answer = self.student(images)
        loss = moments(z) + worth(images, answer, self.settings.balance_weight)
        self.step_latents(z, *torch.autograd.grad(loss, z))
        with torch.no_grad():
            drawn: Tensor = self.decoder(z)
        return drawn[:count]

    def step_latents(self, z: Tensor, slope: Tensor) -> None:
        """The one step of Adam that ``z`` (B, Z) takes along d loss / d z."""
        z.grad = slope
        torch.optim.Adam([z], self.settings.latent_rate).step()

    @property
    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"encoder": self.encoder, "decoder": self.decoder, "optimizer": self.optimizer}


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of codes, (B, Z) each, from N(0, 1): summed over latents, a mean over images. ()."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1).mean()


def moments(z: Tensor) -> Tensor:
    """How far latents (B, Z) are from mean 0 and variance 1 over their batch. ()."""
    return (z.var(0) - 1.0).square().mean() + z.mean(0).square().mean()


def worth(images: Tensor, answer: Tensor, balance_weight: float) -> Tensor:
    """How little images are worth replaying: unsure answers (B, K), of few classes. ()."""
    batch = Batch(images, {Signal.LOGITS: answer}, answer)
    return one_hot().value(batch) + balance_weight * class_balance().value(batch)
