"""Audit a finished simulation: membership inference from its student, and from its teachers.

No shadow model is trained. A simulation knows who was trained on what, so each model is attacked as
its owner would with ``fedkd-client audit``. The answers pass a gate with a ledger in memory.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from fedkd.client.institution import institution_name, simulated_assets, simulated_policy
from fedkd.client.institution.audited_release import (
    attacked_outputs,
    audit_gate,
    output_statistics,
)
from fedkd.client.institution.audited_samples import audit_of_statistics, draw_samples
from fedkd.client.institution.from_config import open_owner_student
from fedkd.client.institution.institution import Institution, open_release
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.vault import LabelledSamples
from fedkd.errors import DataError, SettingsError
from fedkd.evaluation import predict_logits
from fedkd.experiment import Experiment
from fedkd.privacy.supervised_membership import LOGITS, MembershipAudit
from fedkd.server.run.manifest import MANIFEST, read_manifest
from fedkd.simulations.run import ENGINES, teacher_cache

STUDENT = "student.safetensors"
SUFFIXES = (".safetensors", ".onnx")
"""Of a student's file."""


def is_finished_run(name: str) -> bool:
    """Whether a name is a run's folder or a student's file, and no experiment's."""
    path = Path(name)
    return (path / MANIFEST).is_file() or path.suffix in SUFFIXES


def audit_finished_run(
    path: Path, count: int, seed: int, on_model: Callable[[str], None] = lambda name: None
) -> list[MembershipAudit]:
    """Attack a student, and, of a whole run, the answers of every institution too.

    Args:
        path: the folder of a run, or the student's file in it.
        count: most members and most others for each model.
        seed: of the draw.
        on_model: called with the name of each model before it is attacked.

    Raises:
        SettingsError: no such run, or one of a deployment: its members are known to their
            institutions alone.
        DataError: data or student cannot be opened.
    """
    folder = path if path.is_dir() else path.parent
    student = folder / STUDENT if path.is_dir() else path
    if not student.is_file() or not (folder / MANIFEST).is_file():
        raise SettingsError(
            f"{path}: expected the folder of a finished run with {STUDENT} and {MANIFEST}, or "
            "the student's file in it"
        )
    manifest = read_manifest(folder)
    if manifest.engine not in ENGINES:
        raise SettingsError(
            f"{folder} is the run of a deployment, and its institutions alone know their training "
            "samples; each runs fedkd-client audit OWNER.toml --student STUDENT"
        )
    experiment = manifest.experiment
    torch.set_num_threads(experiment.student.threads)
    cache = teacher_cache(experiment, folder)
    vaults = [
        TrainedVault(simulated_assets(experiment, index), cache / f"{index:04d}")
        for index in range(experiment.institutions.count)
    ]
    on_model(student.name)
    audits = [_audit_student(student, vaults, count, seed)]
    if path.is_dir():
        for index, vault in enumerate(vaults):
            name = institution_name(index, len(vaults))
            on_model(name)
            audits.append(_audit_teacher(experiment, vault, name, count, seed))
    return audits


def _audit_student(
    path: Path, vaults: list[TrainedVault], count: int, seed: int
) -> MembershipAudit:
    opened = open_owner_student(vaults[0], path)
    members = _pooled([(vault, vault.training_samples) for vault in vaults], opened.classes)
    others = _pooled([(vault, vault.test_samples) for vault in vaults], opened.classes)
    drawn = draw_samples(members, others, count, seed)
    logits = predict_logits(opened.network, drawn.labelled.samples)
    statistics, threshold = output_statistics(logits, drawn.labelled.labels)
    subject = f"training samples of all institutions by {path.name}"
    return audit_of_statistics(subject, {LOGITS: statistics}, threshold, drawn, seed)


def _audit_teacher(
    experiment: Experiment, vault: TrainedVault, name: str, count: int, seed: int
) -> MembershipAudit:
    policy = simulated_policy(experiment)
    drawn = draw_samples(vault.training_samples, vault.test_samples, count, seed)
    ledger = Ledger(None)
    card = Institution(name, vault, policy, ledger).card
    release, _ = open_release(vault, policy, ledger)
    outputs = attacked_outputs(audit_gate(policy, release, card), release, drawn.labelled)
    subject = f"the teacher of {name} by its answers (mode {policy.mode})"
    return audit_of_statistics(subject, outputs.statistics, outputs.threshold, drawn, seed)


def _pooled(
    parts: list[tuple[TrainedVault, LabelledSamples]], names: tuple[str, ...] | None
) -> LabelledSamples:
    """Samples of several institutions, with labels in the order of a student's outputs.

    Args:
        parts: of each institution.
        names: of the student's outputs; None: all are in the order of the data.

    Raises:
        DataError: the student lacks an output.
    """
    labels = []
    for vault, part in parts:
        own = [number.name for number in vault.numbers] or list(
            vault.class_names or map(str, range(vault.classes))
        )
        if names is None:
            labels.append(part.labels)
            continue
        if not set(own) <= set(names):
            raise DataError("the student lacks a class or a number of this run; name its student")
        place = torch.tensor([names.index(each) for each in own])
        labels.append(part.labels[:, place.argsort()] if vault.numbers else place[part.labels])
    return LabelledSamples(torch.cat([part.samples for _, part in parts]), torch.cat(labels))
