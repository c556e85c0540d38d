"""Networks and data of a regime: padded images, the paper's normalisation, its generator."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.data.dataset import Dataset
from fedkd.domains.images import Images
from fedkd.errors import SettingsError
from fedkd.models import Generator, Network, StandardisedGenerator, build_network
from fedkd.simulations.reproduction.regime import DataSettings, GeneratorSection


class Standardisation(nn.Module):
    """[0, 1] -> mean 0 and variance 1 of the training images, as the first layer of a network.

    Args:
        mean: of them, one for each channel.
        deviation: likewise, > 0.
    """

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return (x - self.get_buffer("mean")) / self.get_buffer("deviation")


def paper_network(name: str, data: Dataset, settings: DataSettings, seed: int) -> nn.Module:
    """A network of that name that normalises images as the paper does.

    Args:
        name: a key of `fedkd.models.MODELS`.
        data: has classes and shape.
        settings: has mean and deviation.
        seed: of the first weights.

    Raises:
        SettingsError: no such network, or no mean for each channel.
    """
    channels = data.shape[0]
    if not len(settings.mean) == len(settings.deviation) == channels:
        raise SettingsError(
            f"data.mean {settings.mean} and data.deviation {settings.deviation} of images with "
            f"{channels} channels; give one number for each channel"
        )
    network = build_network(name, data.classes, data.shape, seed)
    if isinstance(network, Network):
        network.body[0] = Standardisation(settings.mean, settings.deviation)
    return network


def padded(data: Dataset, side: int | None) -> Dataset:
    """The same with black around its images, so that they are ``side`` pixels high and wide.

    Raises:
        SettingsError: they are larger.
    """
    if side is None:
        return data
    height, width = data.shape[1:]
    if max(height, width) > side:
        raise SettingsError(f"images of {height}x{width} cannot be padded to {side}x{side}")
    top, left = (side - height) // 2, (side - width) // 2
    edges = (left, side - width - left, top, side - height - top)
    return replace(
        data,
        train_images=F.pad(data.train_images, edges),
        test_images=F.pad(data.test_images, edges),
    )


@dataclass(frozen=True)
class PaperImages(Images):
    """The domain of images, with the generator of a regime."""

    settings: GeneratorSection
    data: DataSettings

    def generator(self, latent: int) -> nn.Module:
        """See `fedkd.core.domain.Domain`; "standardised" images may leave [0, 1]."""
        if self.settings.output == "sigmoid":
            return Generator(latent, self.shape, self.settings.width)
        return StandardisedGenerator(
            latent, self.shape, self.settings.width, self.data.mean, self.data.deviation
        )
