"""Table of release modes: build the one that a policy names."""

from collections.abc import Callable
from dataclasses import replace

from fedkd.client.release.local_dp import LocalDpRelease
from fedkd.client.release.noiseless import NoiselessRelease
from fedkd.client.release.pate import PateRelease
from fedkd.client.release.release_mode import ReleaseMode
from fedkd.errors import SettingsError
from fedkd.models import Teacher
from fedkd.privacy import MODES, Policy
from fedkd.protocol import Guarantee


def _without_guarantee(policy: Policy, teacher: Teacher, training: Guarantee | None) -> ReleaseMode:
    """Mode ``none``: no guarantee, even where the training had one."""
    return NoiselessRelease(policy, teacher, None)


def _dp_teacher(policy: Policy, teacher: Teacher, training: Guarantee | None) -> ReleaseMode:
    if training is None:
        raise SettingsError(
            "policy.mode dp-teacher needs a teacher that is trained here with differential "
            "privacy; write [teacher.private], or choose another mode"
        )
    return NoiselessRelease(policy, teacher, training)


RELEASE_MODES: dict[str, Callable[[Policy, Teacher, Guarantee | None], ReleaseMode]] = {
    "none": _without_guarantee,
    "dp-teacher": _dp_teacher,
    "pate": PateRelease.from_policy,
    "local-dp": LocalDpRelease.from_policy,
}
"""Builders by the names of `fedkd.privacy.MODES`, from a policy, a teacher and the guarantee of its
training."""


def _no_votes(policy: Policy, teacher: Teacher, training: Guarantee | None) -> ReleaseMode:
    raise SettingsError(
        "policy.mode pate releases the class that most voters name, and these predict numbers; "
        "choose dp-teacher or local-dp"
    )


NUMBER_RELEASE_MODES = {
    **RELEASE_MODES,
    "pate": _no_votes,
    "local-dp": LocalDpRelease.of_numbers,
}
"""The same of teachers that predict numbers."""


def build_release_mode(
    policy: Policy,
    teacher: Teacher,
    training: Guarantee | None,
    *,
    numbers: bool = False,
    groups: tuple[slice, ...] = (),
) -> ReleaseMode:
    """The release mode of a policy for this teacher.

    Args:
        policy: the owner's.
        teacher: private.
        training: the guarantee of its training.
        numbers: whether it predicts numbers.
        groups: outputs of each task, where it has several: what is coarsened is coarsened in each.

    Raises:
        SettingsError: the mode needs what the teacher does not have, or the budget is too small.
    """
    modes = NUMBER_RELEASE_MODES if numbers else RELEASE_MODES
    if len(groups) > 1 and MODES[policy.mode].charged:
        raise SettingsError(
            f"policy.mode {policy.mode} hides the answer of one task, and this teacher answers "
            f"{len(groups)} at once; serve each task by a teacher of its own, or choose dp-teacher"
        )
    built = modes[policy.mode](policy, teacher, training)
    if len(groups) > 1 and isinstance(built, NoiselessRelease):
        return replace(built, groups=groups)
    return built
