"""Mode ``local-dp``: one teacher's logits, under noise as wide as the room. Knows no books.

Nothing is known of how a teacher changes with its images, so noise has to hide any change of it: it
is as wide as all answers lie apart. That protects the whole data set, and is of little use for as
many questions as distillation asks; it is here for institutions that must not trust less.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.client.release.noisy import NoisyRelease, deviation
from fedkd.models import Teacher
from fedkd.privacy import ClippedGaussian, Policy
from fedkd.protocol import Guarantee, Signal


@dataclass(frozen=True)
class LocalDpRelease(NoisyRelease[Teacher, ClippedGaussian]):
    """A release of noisy logits.

    Guarantees:
        Everything that is ever told under the budget is (epsilon, delta)-DP under any change of
        the data set or of the teacher, see `ClippedGaussian`, if the clipping was chosen without
        looking at either. It is local DP of the institution, and hence also of each image.
    """

    unit = "the whole data set"
    adjacency = "any change"

    @classmethod
    def of(cls, policy: Policy, teacher: Teacher, promised: Guarantee | None) -> "LocalDpRelease":
        """The release of this teacher.

        Raises:
            SettingsError: a budget that pays for nothing, or clipping that is not above 0.
        """
        noise = deviation(policy, 4 * policy.clipping**2)
        return cls(policy, teacher, ClippedGaussian(policy.clipping, noise))

    def draw(self, images: Tensor) -> Tensor:
        """(B, K) steps of the mechanism's grid.

        A teacher that fails has said zero of everything: that it failed would else be told without
        noise.
        """
        silent = torch.zeros(len(images), self.teacher.classes)
        try:
            said = self.teacher.ask(images, self.signals)[Signal.LOGITS]
            logits = said if said.shape == silent.shape else silent
        except Exception:
            logits = silent
        return self.mechanism(logits)

    def say(self, drawn: Tensor) -> Tensor:
        """See `ReleaseMode.say`."""
        return self.mechanism.to_logits(drawn)
