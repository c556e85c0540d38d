"""Mode ``pate``: voters elect a label, and noise decides close elections. Knows no books.

The voters of `fedkd.client.vault.pate_ensemble` have been taught disjoint images, so that one image has one vote.
Only the label is told, and it is charged whatever it is: the price must not depend on the votes.
"""

from dataclasses import dataclass

from torch import Tensor

from fedkd.client.release.noiseless import one_hot
from fedkd.client.release.noisy import NoisyRelease, deviation
from fedkd.client.vault.pate_ensemble import PateEnsemble
from fedkd.errors import SettingsError
from fedkd.models import Teacher
from fedkd.privacy import NoisyArgmax, Policy
from fedkd.protocol import Guarantee


@dataclass(frozen=True)
class PateRelease(NoisyRelease[PateEnsemble, NoisyArgmax]):
    """A release of elected labels.

    Guarantees:
        Everything that is ever told under the budget is (epsilon, delta)-DP under adding or
        removing one training image, see `NoisyArgmax`, if the number of voters, their settings
        and the classes were chosen without looking at the images. It holds for an image, and not
        for a person of whom there are several.
    """

    unit = "one training image"
    adjacency = "add or remove"

    @classmethod
    def of(cls, policy: Policy, teacher: Teacher, promised: Guarantee | None) -> "PateRelease":
        """The release of this committee.

        Raises:
            SettingsError: a teacher that is no committee, or a budget that pays for nothing.
        """
        if not isinstance(teacher, PateEnsemble):
            raise SettingsError(
                "policy.mode pate needs voters, each trained on images of its own; set "
                "teacher.voters, or choose another mode"
            )
        noise = deviation(policy, NoisyArgmax.squared_sensitivity)
        return cls(policy, teacher, NoisyArgmax(noise))

    def draw(self, images: Tensor) -> Tensor:
        """(B, 1) labels."""
        return self.mechanism(self.teacher.votes(images))[:, None]

    def say(self, drawn: Tensor) -> Tensor:
        """See `ReleaseMode.say`."""
        return one_hot(drawn[:, 0], self.teacher.classes)
