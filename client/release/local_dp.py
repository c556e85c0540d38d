"""Release mode ``local-dp``: clipped logits, or numbers, of one teacher with Gaussian noise.

How a teacher changes with its data is not known, so the noise has to hide any change: it is scaled
to the largest distance between two clipped answers. That protects the whole data set. It is of
little use for as many samples as distillation needs, and is here for institutions that need the
strongest protection.
"""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from fedkd.client.release.noisy_release_base import NoisyRelease, noise_deviation
from fedkd.models import Teacher
from fedkd.privacy import ClippedGaussian, Policy, RangedGaussian
from fedkd.protocol import Guarantee, Signal


@dataclass(frozen=True)
class LocalDpRelease(NoisyRelease[Teacher, ClippedGaussian | RangedGaussian]):
    """Releases noisy logits, or noisy numbers as shares of their ranges.

    Guarantees:
        Everything that is ever released under the budget is (epsilon, delta)-DP under any change of
        the data set or of the teacher, see `ClippedGaussian`, if the clipping was chosen without
        looking at either; of numbers see `RangedGaussian`, whose clipping are the stated ranges. It
        is local DP of the institution, and hence also of each image or row.
    """

    unit = "the whole data set"
    adjacency = "any change"

    @classmethod
    def from_policy(
        cls, policy: Policy, teacher: Teacher, training: Guarantee | None
    ) -> "LocalDpRelease":
        """The release mode for this teacher.

        Raises:
            SettingsError: a budget too small for one answer, or clipping that is not above 0.
        """
        noise = noise_deviation(policy, 4 * policy.clipping**2)
        return cls(policy, teacher, ClippedGaussian(policy.clipping, noise))

    @classmethod
    def of_numbers(
        cls, policy: Policy, teacher: Teacher, training: Guarantee | None
    ) -> "LocalDpRelease":
        """The release mode for a teacher of numbers.

        Raises:
            SettingsError: a budget too small for one answer.
        """
        outputs = teacher.classes
        noise = noise_deviation(policy, Fraction(outputs))
        return cls(policy, teacher, RangedGaussian(outputs, noise))

    def noisy_answers(self, images: Tensor) -> Tensor:
        """(B, K) steps of the mechanism's grid.

        A teacher that fails counts as zeros: the failure itself would be released without
        noise.
        """
        zeros = torch.zeros(len(images), self.teacher.classes)
        try:
            answer = self.teacher.ask(images, self.signals)[Signal.LOGITS]
            logits = answer if answer.shape == zeros.shape else zeros
        except Exception:
            logits = zeros
        return self.mechanism(logits)

    def to_logits(self, noisy: Tensor) -> Tensor:
        """See `ReleaseMode.to_logits`."""
        return self.mechanism.to_logits(noisy)
