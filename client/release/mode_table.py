"""The table of modes: which release stands behind each. Knows no more of them."""

from collections.abc import Callable

from fedkd.client.release.local_dp import LocalDpRelease
from fedkd.client.release.noiseless import NoiselessRelease
from fedkd.client.release.pate import PateRelease
from fedkd.client.release.release_mode import ReleaseMode
from fedkd.errors import SettingsError
from fedkd.models import Teacher
from fedkd.privacy import Policy
from fedkd.protocol import Guarantee


def _unpromised(policy: Policy, teacher: Teacher, promised: Guarantee | None) -> ReleaseMode:
    """Promises nothing, whatever the training did: beside it anything may be told."""
    return NoiselessRelease(policy, teacher, None)


def _trained_privately(policy: Policy, teacher: Teacher, promised: Guarantee | None) -> ReleaseMode:
    if promised is None:
        raise SettingsError(
            "policy.mode dp-teacher needs a teacher that is trained here with differential "
            "privacy; write [teacher.private], or choose another mode"
        )
    return NoiselessRelease(policy, teacher, promised)


RELEASE_MODES: dict[str, Callable[[Policy, Teacher, Guarantee | None], ReleaseMode]] = {
    "none": _unpromised,
    "dp-teacher": _trained_privately,
    "pate": PateRelease.of,
    "local-dp": LocalDpRelease.of,
}
"""By `fedkd.privacy.release_policy.MODES`: from a policy, a teacher, and what its training promises."""


def release(policy: Policy, teacher: Teacher, promised: Guarantee | None) -> ReleaseMode:
    """How this policy has this teacher answer.

    Raises:
        SettingsError: the mode promises what the teacher does not have, or the budget is too small.
    """
    return RELEASE_MODES[policy.mode](policy, teacher, promised)
