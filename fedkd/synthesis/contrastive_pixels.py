"""Banked images moved apart in the eyes of a network that is here. Asks nobody anything."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.compute import device_of
from fedkd.models import SynthesisTarget, penultimate_features
from fedkd.protocol import as_float
from fedkd.synthesis.sources import Drawn, to_bytes

VIEW = SynthesisTarget(jitter=0.125, flips=True)
"""How an image and another view of it differ."""
WIDTH = 64
"""Of the instance discriminator."""


class Contrasted:
    """Images of the bank, each made easier to tell from every other.

    Together with an instance discriminator, a shallow network that stays for the run, images are
    trained by `contrastive`, on the features of ``primer``.

    Args:
        bank: where images come from.
        primer: (B, C, H, W) in [0, 1] -> (B, K); what enters its last layer is what counts, or
            its logits where it is no `fedkd.models.Network`.
        shape: (C, H, W).
        steps: for each batch, >= 1.
        rate: of images and discriminator, > 0.
        seed: of the discriminator's weights.
    """

    def __init__(
        self,
        bank: Bank,
        primer: nn.Module,
        shape: tuple[int, int, int],
        steps: int,
        rate: float,
        seed: int,
    ) -> None:
        self.bank, self.primer, self.steps, self.rate = bank, primer, steps, rate
        primer.eval()
        self._device = device_of(primer)
        with torch.no_grad():
            size = self._features(torch.zeros(1, *shape, device=self._device)).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.discriminator = nn.Sequential(
                nn.Linear(size, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
            ).to(self._device)

    def draw(self, count: int, rng: torch.Generator) -> Drawn:
        """``count`` of the bank, moved."""
        self.primer.eval()
        many = max(2, len(self.bank))  # one alone has nothing to differ from
        index = torch.randperm(many, generator=rng)[: max(2, count)] % len(self.bank)
        images = self.bank.images[index.to(self.bank.device)]
        x = as_float(images.to(self._device)).requires_grad_()
        optimizer = torch.optim.Adam([x, *self.discriminator.parameters()], self.rate)
        for _ in range(self.steps):
            here = self.discriminator(self._features(x))
            there = self.discriminator(self._features(VIEW.augment(x, rng)))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(contrastive(here, there))
            optimizer.step()
        return Drawn(to_bytes(x.detach().clamp(0.0, 1.0)[:count]), "contrast")

    def learn(self, origin: str, target: Tensor) -> None:
        """What teachers say of it changes nothing."""

    def _features(self, x: Tensor) -> Tensor:
        """(B, D)."""
        return penultimate_features(self.primer, x)


def contrastive(here: Tensor, there: Tensor) -> Tensor:
    """How alike images are to one another, beside how alike each is to another view of it. ().

    ``mean_i -log(exp(cos(h_i, t_i)) / sum_{j != i} exp(cos(h_i, h_j)))``

    Args:
        here: (B, D), of two images at least.
        there: (B, D), of another view of each.

    Source: DIP-KD (arXiv 2604.25794), eq. on L_CT, after CMI (Fang et al., IJCAI 2021).
    """
    h, t = F.normalize(here, dim=1), F.normalize(there, dim=1)
    others = (h @ h.T).masked_fill(torch.eye(len(h), dtype=torch.bool, device=h.device), -torch.inf)
    return (others.logsumexp(1) - (h * t).sum(1)).mean()
