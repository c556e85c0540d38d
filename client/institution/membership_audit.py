"""Audit by an owner before signing: how well members are found by what the policy releases.

Everything happens in the owner's process and is printed for him alone. Figures of an audit come
from private samples without noise: to publish them is a release that no ledger knows of.
"""

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from fedkd.client.config.owner_config import OwnerConfig
from fedkd.client.config.private_state_folder import ensure_private_folder
from fedkd.client.institution.audited_release import (
    attacked_outputs,
    audit_gate,
    output_statistics,
)
from fedkd.client.institution.audited_samples import (
    DrawnSamples,
    audit_of_statistics,
    draw_samples,
)
from fedkd.client.institution.from_config import open_owner_student, owner_vault, source_assets
from fedkd.client.institution.institution import Institution, open_release
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.vault.labelled_samples import labelled_samples
from fedkd.client.vault.training.settings import ProgressCallback
from fedkd.client.vault.vault import LabelledSamples, Vault
from fedkd.errors import DataError, SettingsError
from fedkd.evaluation import predict_logits
from fedkd.privacy.supervised_membership import (
    LOGITS,
    MembershipAudit,
)
from fedkd.protocol import output_names_of


@dataclass(frozen=True)
class AuditedSamples:
    """Which samples an owner audits with."""

    members: str | None = None
    """A source as in [data], of which all are training samples; None: the training samples that
    the configuration names."""
    others: str | None = None
    """Likewise, none of them a training sample; None: the test samples."""
    count: int = 1000
    """Most samples of each kind, >= 10; half of them are known to the attacker."""
    seed: int = 0
    """Of the draw."""


def audit_release(
    config: OwnerConfig,
    chosen: AuditedSamples,
    *,
    all_signals: bool = False,
    progress: ProgressCallback | None = None,
) -> MembershipAudit:
    """Infer membership from what the policy releases, for the owner alone.

    Nothing is charged for the answers; a training with differential privacy that has not begun
    yet is charged and cached, as for `owner_institution`.

    Args:
        config: the owner's.
        chosen: the samples.
        all_signals: ask also for signals and gradients of the teacher that the policy withholds.
        progress: told of the teacher's training.

    Raises:
        SettingsError: no members or no others are named, or the policy takes no such samples.
        DataError: data or teacher cannot be opened, or do not go together.
    """
    ensure_private_folder(config.state.folder)
    vault, policy = owner_vault(config, progress), config.effective_policy
    drawn = _drawn(vault, config, chosen)
    with closing(Ledger.anchored(config.state.ledger)) as ledger:
        if all_signals:
            open_release(vault, policy, ledger)  # charges a private training before it begins
            teacher = vault.teacher
            policy = replace(policy, signals=teacher.signals, pull_back=teacher.differentiable)
        card = Institution(config.name, vault, policy, ledger).card
        release, _ = open_release(vault, policy, ledger)
    gate = audit_gate(policy, release, card)
    outputs = attacked_outputs(gate, release, drawn.labelled)
    withheld = ", and by what it withholds" if all_signals else ""
    return audit_of_statistics(
        f"the teacher of {config.name} by what its policy releases (mode {policy.mode}){withheld}",
        outputs.statistics,
        outputs.threshold,
        drawn,
        chosen.seed,
    )


def audit_student(config: OwnerConfig, student: Path, chosen: AuditedSamples) -> MembershipAudit:
    """Infer membership in an owner's training samples from a student, for the owner alone.

    Args:
        config: the owner's.
        student: as for `fedkd.client.institution.evaluate_student`.
        chosen: the samples.

    Raises:
        SettingsError: see `audit_release`.
        DataError: likewise, or the file is no student.
    """
    vault = owner_vault(config, None)
    opened = open_owner_student(vault, student)
    drawn = _drawn(vault, config, chosen)
    logits = predict_logits(opened.network, drawn.labelled.samples)
    logits = student_outputs(vault, logits, opened.classes)
    statistics, threshold = output_statistics(logits, drawn.labelled.labels)
    return audit_of_statistics(
        f"training samples of {config.name} by the student {student.name}",
        {LOGITS: statistics},
        threshold,
        drawn,
        chosen.seed,
    )


def _drawn(vault: Vault, config: OwnerConfig, chosen: AuditedSamples) -> DrawnSamples:
    """Draw from the sources that were named, or else from the samples that the vault has."""

    def named(source: str | None, own: LabelledSamples | None, option: str) -> LabelledSamples:
        if source is not None:
            return labelled_samples(vault, source_assets(config, source))
        if own is None or not len(own.labels):
            raise SettingsError(
                f"nothing says which samples are {option}; give --{option} SOURCE, such as "
                "table:FILE.csv or npz:FILE.npz, or a [data] table"
            )
        return own

    if len(vault.tasks) > 1:
        raise SettingsError(
            "an audit is of one task, and this teacher answers several at once; audit a teacher "
            "of one of them"
        )
    members = named(chosen.members, vault.training_samples, "members")
    others = named(chosen.others, vault.test_samples, "others")
    return draw_samples(members, others, chosen.count, chosen.seed)


def student_outputs(vault: Vault, outputs: Tensor, names: tuple[str, ...] | None) -> Tensor:
    """A student's outputs (N, K') in the order of the owner's classes or numbers, (N, K).

    Raises:
        DataError: the student lacks one of them.
    """
    own = [number.name for number in vault.numbers] or list(
        output_names_of(vault.tasks) or vault.class_names or map(str, range(vault.classes))
    )
    if names is None or (not set(own) <= set(names) and len(names) == len(own)):
        names = tuple(own)
    if outputs.shape[1] != len(names) or not set(own) <= set(names):
        raise DataError(
            f"the student has {outputs.shape[1]} outputs, and not one for each that the owner "
            "has; name the student of a run that the owner took part in"
        )
    return outputs[:, [names.index(name) for name in own]]
