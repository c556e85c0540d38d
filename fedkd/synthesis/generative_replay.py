"""What was asked about, remembered without being kept: an auto-encoder. Asks nobody itself."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.compute import device_of
from fedkd.core.state import State, gather, scatter
from fedkd.losses.term import Batch, class_balance, one_hot
from fedkd.methods.mechanisms import Memory
from fedkd.models import Generator
from fedkd.protocol import Signal, as_float
from fedkd.student.curriculum import constant
from fedkd.synthesis.sources import Drawn

WIDTH = 32
"""Channels of the encoder."""
OWN = 4
"""For so many images that were asked about, one of its own is learned again."""


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


class Remembered:
    """Images like those that were asked about, painted from memory.

    Before it draws it learns from every batch that has entered the bank since it drew last, and
    from some images of its own, so that it does not forget either: an image painted from its code
    is to look like it, and the student is to say the same of both. What it paints is drawn as the
    student would be surest of it, of every class alike.

    Args:
        memory: how it learns.
        latent: Z.
        bank: what was asked about.
        student: (B, C, H, W) in [0, 1] -> (B, K), read and never changed.
        shape: (C, H, W).
        seed: of the first weights.

    Source: PRE-DFKD (Binici et al., AAAI 2022), in which the teacher stands where the student does.
    """

    def __init__(
        self,
        memory: Memory,
        latent: int,
        bank: Bank,
        student: nn.Module,
        shape: tuple[int, int, int],
        seed: int,
    ) -> None:
        self.memory, self.latent, self.bank, self.student = memory, latent, bank, student
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.decoder = Encoder(latent, shape), Generator(latent, shape)
        self._device = device_of(student)
        self.encoder.to(self._device)
        self.decoder.to(self._device)
        weights = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.Adam(weights, memory.rate)
        self._wishes = (
            (constant(1.0), one_hot()),
            (constant(memory.balance_weight), class_balance()),
        )
        self._heard = 0

    def draw(self, count: int, rng: torch.Generator) -> Drawn:
        """``count`` images that it remembers, after it has learned what is new."""
        self.student.eval()
        new = self.bank.newest(self.bank.added - self._heard)
        for start in range(0, len(new), count):
            for _ in range(self.memory.steps):
                self.learn_from(as_float(new[start : start + count].to(self._device)), rng)
        self._heard = self.bank.added
        return Drawn(self._recalled(count, rng), "memory")

    def learn(self, origin: str, target: Tensor) -> None:
        """It learns from the bank, not here."""

    def learn_from(self, images: Tensor, rng: torch.Generator) -> float:
        """One step on ``images`` (B, C, H, W) in [0, 1] and some of its own; the loss before it."""
        images = torch.cat([images, self._recalled(len(images) // OWN + 1, rng)])
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
        painted = self.decoder(mean + (0.5 * log_variance).exp() * noise)
        with torch.no_grad():
            said = self.student(images)
        alike = F.l1_loss(painted, images) + F.l1_loss(self.student(painted), said)
        each = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(1)
        return alike + self.memory.prior_weight * each.mean()

    def state(self) -> State:
        """Both networks, their momenta, and how much of the bank they have heard."""
        return gather(self._parts, {"heard": self._heard})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        self._heard = scatter(state, self._parts)["heard"]

    def _recalled(self, count: int, rng: torch.Generator) -> Tensor:
        """Images of latents that took one step towards what is worth remembering."""
        self.decoder.eval()
        z = torch.randn(max(2, count), self.latent, generator=rng).to(self._device).requires_grad_()
        images = self.decoder(z)
        said = self.student(images)
        batch = Batch(images, {Signal.LOGITS: said}, said)
        loss = (z.var(0) - 1.0).square().mean() + z.mean(0).square().mean()
        for weight, term in self._wishes:
            loss = loss + weight(0.0) * term.value(batch)
        (slope,) = torch.autograd.grad(loss, z)
        step = torch.optim.Adam([z], self.memory.latent_rate)
        z.grad = slope
        step.step()
        with torch.no_grad():
            painted: Tensor = self.decoder(z)
        return painted[:count]

    @property
    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"encoder": self.encoder, "decoder": self.decoder, "optimizer": self.optimizer}
