"""Release mode ``pate``: the label with the most votes of a PATE ensemble, after noise.

The voters of `fedkd.client.vault.pate_ensemble` were trained on disjoint samples, so that a sample
changes one vote. Only the label is released. Its charge does not depend on the votes.
"""

from dataclasses import dataclass

from torch import Tensor

from fedkd.client.release.noiseless import one_hot_logits
from fedkd.client.release.noisy_release_base import NoisyRelease, noise_deviation
from fedkd.client.vault.pate_ensemble import PateEnsemble
from fedkd.errors import SettingsError
from fedkd.models import Teacher
from fedkd.privacy import NoisyArgmax, Policy
from fedkd.protocol import Guarantee


@dataclass(frozen=True)
class PateRelease(NoisyRelease[PateEnsemble, NoisyArgmax]):
    """Releases noisy majority labels.

    Guarantees:
        Everything that is ever released under the budget is (epsilon, delta)-DP under adding or
        removing one training image, see `NoisyArgmax`, if the number of voters, their settings
        and the classes were chosen without looking at the images. It holds for an image, and not
        for a person of whom there are several.
    """

    unit = "one training image"
    adjacency = "add or remove"

    @classmethod
    def from_policy(
        cls, policy: Policy, teacher: Teacher, training: Guarantee | None
    ) -> "PateRelease":
        """The release mode for this ensemble.

        Raises:
            SettingsError: a teacher that is no PATE ensemble, or a budget too small for one answer.
        """
        if not isinstance(teacher, PateEnsemble):
            raise SettingsError(
                "policy.mode pate needs voters, each trained on images of its own; set "
                "teacher.voters, or choose another mode"
            )
        noise = noise_deviation(policy, NoisyArgmax.squared_sensitivity)
        return cls(policy, teacher, NoisyArgmax(noise))

    def noisy_answers(self, images: Tensor) -> Tensor:
        """(B, 1) labels."""
        return self.mechanism(self.teacher.votes(images))[:, None]

    def to_logits(self, noisy: Tensor) -> Tensor:
        """See `ReleaseMode.to_logits`."""
        return one_hot_logits(noisy[:, 0], self.teacher.classes)
