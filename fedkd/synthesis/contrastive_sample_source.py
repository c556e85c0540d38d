"""Sample source: banked images moved apart by a contrastive loss on a first student's features.

Source: DIP-KD (Vo et al., ICCCI 2026).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from fedkd.core.augmentation import jittered
from fedkd.core.checkpoint_state import State, gather, scatter
from fedkd.core.device import device_of
from fedkd.core.interfaces import BaseSource, Context
from fedkd.core.source_types import Cost, Needs, Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.losses.contrastive import contrastive_loss
from fedkd.models import penultimate_features
from fedkd.protocol import as_float
from fedkd.student.primer_student import Primer
from fedkd.synthesis.parameterisation import to_bytes

JITTER = 0.125
"""Most by which another view of an image is rolled, in sides; half of them are mirrored."""
WIDTH = 64
"""Of the instance discriminator."""


@dataclass(frozen=True, eq=False)
class ContrastiveSamples:
    """The settings.

    Attributes:
        primer: in whose features images are moved apart; a student part of the same method.
        steps: for each batch, >= 1.
        rate: of pixels and discriminator, > 0, images in [0, 1].
    """

    primer: Primer
    steps: int
    rate: float
    needs: ClassVar[Needs] = Needs()
    cost: ClassVar[Cost] = Cost()

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.rate < math.inf:
            raise SettingsError(
                f"contrastive samples: {self.steps} steps, rate {self.rate}; expected >= 1 and > 0"
            )

    def build(self, context: Context) -> "MovedApart":
        """The source."""
        return MovedApart(self, context)


class MovedApart(BaseSource):
    """Images of the bank, each made easier to tell from every other.

    Together with an instance discriminator, a shallow network that stays for the run, images are
    trained by `fedkd.losses.contrastive_loss`, on the features of the primer.

    Args:
        settings: how they are moved.
        context: whose bank has the images. What enters the primer's last layer is its features, or
            its logits where it is no `fedkd.models.Network`.
    """

    def __init__(self, settings: ContrastiveSamples, context: Context) -> None:
        self.settings, self.bank, self._compute = settings, context.bank, context.compute
        self.primer = context.part(settings.primer).network
        self._device = device_of(self.primer)
        with torch.no_grad():
            size = self._features(torch.zeros(2, *context.shape, device=self._device)).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.discriminator = nn.Sequential(
                nn.Linear(size, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
            ).to(self._device)

    def propose(self, turn: Turn) -> Proposal | None:
        """``turn.count`` of the bank, moved."""
        count, rng = turn.count, turn.rng
        # A moved image is much like the first one, so nothing that is held back is moved.
        rows = self.bank.learned
        many = max(2, len(rows))  # one alone has nothing to differ from
        index = rows[torch.randperm(many, generator=rng)[: max(2, count)] % len(rows)]
        images = self.bank.images[index.to(self.bank.device)]
        x = as_float(images.to(self._device)).requires_grad_()
        optimizer = torch.optim.Adam([x, *self.discriminator.parameters()], self.settings.rate)
        for _ in range(self.settings.steps):
            of_images = self.discriminator(self._features(x))
            of_views = self.discriminator(self._features(jittered(x, JITTER, True, rng)))
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(contrastive_loss(of_images, of_views))
            optimizer.step()
        return Proposal(to_bytes(x.detach().clamp(0.0, 1.0)[:count]), "contrast")

    def state(self) -> State:
        """The discriminator."""
        return gather({"discriminator": self.discriminator}, {})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        scatter(state, {"discriminator": self.discriminator})

    def _features(self, x: Tensor) -> Tensor:
        """(B, D)."""
        with self._compute.evaluation(self.primer):
            return penultimate_features(self.primer, x)
