"""What a paper has beside its terms, as values. What they do stands in modules of `fedkd`."""

import math
from dataclasses import dataclass

from fedkd.errors import SettingsError


@dataclass(frozen=True)
class Memory:
    """What was asked is remembered by an auto-encoder, which paints it again (`fedkd.synthesis.generative_replay`).

    Attributes:
        steps: of the auto-encoder for each batch that was asked about, >= 1.
        rate: of its Adam, > 0.
        latent_rate: of the one step by which latents become something to remember, > 0.
        balance_weight: of the class balance in that step, >= 0.
        prior_weight: of the divergence of latents from N(0, 1), >= 0.
    """

    steps: int
    rate: float
    latent_rate: float
    balance_weight: float
    prior_weight: float

    def __post_init__(self) -> None:
        _expect(
            self,
            min(self.rate, self.latent_rate) > 0 and self.steps >= 1,
            min(self.balance_weight, self.prior_weight) >= 0,
        )


@dataclass(frozen=True)
class Reuse:
    """Each batch's generator begins where all of them so far would have liked to (`fedkd.synthesis.meta_initialisation`).

    Attributes:
        rate: of the common generator's Adam, one step of which is taken after each batch, > 0.
        latent_rate: of a batch's latents, > 0.
        reptile: go towards where a batch has ended by so many times the way there; None: follow
            the sum of its gradients, which is first-order MAML.
    """

    rate: float
    latent_rate: float
    reptile: float | None = None

    def __post_init__(self) -> None:
        _expect(self, min(self.rate, self.latent_rate, self.reptile or 1.0) > 0)


@dataclass(frozen=True)
class Discrimination:
    """Images should be told apart from all that came before (`fedkd.synthesis.instance_discrimination`).

    Attributes:
        temperature: of similarities, > 0.
        negatives: of those that came before, in a step, >= 0.
        capacity: most of them that are remembered, >= 1.
        width: of what images are compared by, >= 1.
        rate: of its Adam, > 0.
        crop: least share of an image that its other view shows, in (0, 1].
    """

    temperature: float
    negatives: int
    capacity: int
    width: int
    rate: float
    crop: float

    def __post_init__(self) -> None:
        _expect(
            self,
            min(self.temperature, self.rate) > 0,
            min(self.capacity, self.width) >= 1 and self.negatives >= 0,
            0 < self.crop <= 1,
        )


def _expect(spec: Memory | Reuse | Discrimination, *held: bool) -> None:
    """Finite numbers within the ranges that the class names."""
    numbers = [number for number in vars(spec).values() if number is not None]
    if not (all(held) and all(math.isfinite(number) for number in numbers)):
        raise SettingsError(f"{spec!r} cannot be; see {type(spec).__qualname__} for the ranges")
