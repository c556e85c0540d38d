"""Draw members and others for a membership audit, in equal numbers for each class."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkd.client.vault.vault import LabelledSamples
from fedkd.errors import DataError, SettingsError
from fedkd.privacy.membership_inference import Flags, Floats
from fedkd.privacy.supervised_membership import (
    MIN_SAMPLES,
    MembershipAudit,
    attack_releases,
    control,
)


@dataclass(frozen=True, eq=False)
class DrawnSamples:
    """Members and as many others of each class, in this order."""

    labelled: LabelledSamples
    is_member: Flags
    left_out: int
    """Others that were left out, since they are members too."""

    @property
    def groups(self) -> Tensor:
        """(N,) int64 classes; all 0 where numbers are predicted."""
        labels = self.labelled.labels
        return labels if labels.dim() == 1 else torch.zeros(len(labels), dtype=torch.int64)


def draw_samples(
    members: LabelledSamples, others: LabelledSamples, count: int, seed: int
) -> DrawnSamples:
    """Draw members and others.

    Args:
        members: training samples.
        others: those that are equal to a training sample are left out.
        count: most of each kind, >= `MIN_SAMPLES`.
        seed: of the draw.

    Raises:
        SettingsError: a count out of range.
        DataError: too few samples of both kinds in the same classes.
    """
    if count < MIN_SAMPLES:
        raise SettingsError(f"{count} samples of each kind; expected {MIN_SAMPLES} or more")
    known = {sample.numpy().tobytes() for sample in members.samples}
    new = torch.tensor(
        [sample.numpy().tobytes() not in known for sample in others.samples], dtype=torch.bool
    )
    left_out = len(new) - int(new.sum())
    others = LabelledSamples(others.samples[new], others.labels[new])
    places = _balanced(members.labels, others.labels, count, seed)
    is_member = np.repeat([True, False], [len(own) for own in places])
    return DrawnSamples(
        LabelledSamples(
            torch.cat([members.samples[places[0]], others.samples[places[1]]]),
            torch.cat([members.labels[places[0]], others.labels[places[1]]]),
        ),
        is_member,
        left_out,
    )


def _balanced(members: Tensor, others: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of members and of others, (M,) each: as many of each class.

    A class that is more frequent among members would else be told for membership.

    Raises:
        DataError: too few of both kinds.
    """
    rng = np.random.default_rng(seed)
    groups = [own if own.dim() == 1 else torch.zeros(len(own)) for own in (members, others)]
    common = {
        value: min(int((own == value).sum()) for own in groups)
        for value in sorted(set(groups[0].tolist()))
    }
    share = min(1.0, count / max(1, sum(common.values())))
    picked: tuple[list[int], list[int]] = ([], [])
    for value, most in common.items():
        for place, own in enumerate(groups):
            where = np.flatnonzero((own == value).numpy())
            picked[place].extend(rng.permutation(where)[: int(most * share)].tolist())
    if len(picked[0]) < MIN_SAMPLES:
        raise DataError(
            f"{len(picked[0])} training samples have another sample of the same class beside "
            f"them; an audit needs {MIN_SAMPLES} or more, and hundreds to tell little leakage"
        )
    return torch.tensor(picked[0]), torch.tensor(picked[1])


def audit_of_statistics(
    subject: str,
    statistics: Mapping[str, Floats],
    threshold: Floats | None,
    drawn: DrawnSamples,
    seed: int,
) -> MembershipAudit:
    """Attack statistics of drawn samples.

    Args:
        subject: what is attacked, in words.
        statistics: see `fedkd.privacy.supervised_membership.attack_releases`.
        threshold: likewise.
        drawn: the samples.
        seed: of halves and intervals.
    """
    rng = np.random.default_rng(seed)
    samples, groups = drawn.labelled.samples, drawn.groups.numpy()
    return MembershipAudit(
        subject,
        tuple(attack_releases(statistics, threshold, drawn.is_member, groups, rng)),
        control(samples.numpy(), drawn.is_member, groups, np.random.default_rng(seed)),
        drawn.is_member,
        drawn.labelled.labels.numpy(),
        drawn.left_out,
    )
