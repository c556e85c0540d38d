"""The table of modes: which release stands behind each. Knows no more of them."""

from collections.abc import Callable

from fedkd.client.release.local_dp import LocalDp
from fedkd.client.release.pate import Pate
from fedkd.client.release.plain import Plain
from fedkd.client.release.release_mode import Release
from fedkd.errors import SettingsError
from fedkd.models.teacher import Teacher
from fedkd.privacy.release_policy import Policy
from fedkd.protocol.guarantee import Guarantee


def _unpromised(policy: Policy, teacher: Teacher, promised: Guarantee | None) -> Release:
    """Promises nothing, whatever the training did: beside it anything may be told."""
    return Plain(policy, teacher, None)


def _trained_privately(policy: Policy, teacher: Teacher, promised: Guarantee | None) -> Release:
    if promised is None:
        raise SettingsError(
            "policy.mode dp-teacher needs a teacher that is trained here with differential "
            "privacy; write [teacher.private], or choose another mode"
        )
    return Plain(policy, teacher, promised)


RELEASES: dict[str, Callable[[Policy, Teacher, Guarantee | None], Release]] = {
    "none": _unpromised,
    "dp-teacher": _trained_privately,
    "pate": Pate.of,
    "local-dp": LocalDp.of,
}
"""By `fedkd.privacy.release_policy.MODES`: from a policy, a teacher, and what its training promises."""


def release(policy: Policy, teacher: Teacher, promised: Guarantee | None) -> Release:
    """How this policy has this teacher answer.

    Raises:
        SettingsError: the mode promises what the teacher does not have, or the budget is too small.
    """
    return RELEASES[policy.mode](policy, teacher, promised)
