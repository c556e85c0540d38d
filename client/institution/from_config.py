"""Build an institution from its owner's configuration, or evaluate a student for the owner."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, cast

from fedkd.client.config.owner_config import (
    DataTable,
    OwnerConfig,
    ShrunkTable,
    TeacherTable,
)
from fedkd.client.config.private_state_folder import ensure_private_folder
from fedkd.client.institution.institution import Institution
from fedkd.client.institution.onnx_student import SUFFIX, open_onnx_student
from fedkd.client.institution.student_weight_loading import OpenedStudent, open_student
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.vault.compression.settings import ShrinkSettings
from fedkd.client.vault.external_vault import ExternalVault
from fedkd.client.vault.shrunk_vault import ShrunkVault
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.training.settings import (
    DpSgdSettings,
    ProgressCallback,
    SupervisedSettings,
)
from fedkd.client.vault.vault import Vault
from fedkd.client.vault.vault_settings import Assets
from fedkd.core import recalibrated
from fedkd.core.augmentation import Augmentation
from fedkd.errors import DataError, SettingsError
from fedkd.protocol import tasks_of_outputs
from fedkd.tasks import TaskCounts, pooled_number_scores, pooled_task_accuracies

NamedScores: TypeAlias = Mapping[str, float | None]
"""Scores of a student of numbers, or of several tasks."""


def owner_institution(
    config: OwnerConfig, progress: ProgressCallback | None = None, ledger: Ledger | None = None
) -> Institution:
    """An owner's institution, with its teacher trained, or cached in his state folder.

    Args:
        config: the owner's.
        progress: told of the teacher's training.
        ledger: the owner's; None opens the one in his state folder.

    Raises:
        SettingsError: a model or partition that does not exist, or others can read the folder.
        DataError: its data or its teacher cannot be opened.
    """
    ensure_private_folder(config.state.folder)
    opened = Ledger.anchored(config.state.ledger) if ledger is None else ledger
    return Institution(config.name, owner_vault(config, progress), config.effective_policy, opened)


def evaluate_student(
    config: OwnerConfig, student: Path, batch_statistics: bool = False
) -> tuple[int, int] | NamedScores:
    """Evaluate a student on an owner's private test data.

    For the owner alone: no policy is asked, and nothing is charged.

    Args:
        config: the owner's.
        student: ``student.safetensors`` or ``student.onnx`` of a run, or another ONNX file. Where
            it names its classes they are found by name, else they are in the order of the data's.
        batch_statistics: whether its batch norm gets the statistics of the test samples first, see
            `fedkd.core.batch_norm`: of a student that learned from answers by such statistics.

    Returns:
        (correct, of how many); of numbers ``rows``, and the scores of `fedkd.tasks.Regression`; of
        several tasks ``samples`` and the accuracy of each that is labelled here.

    Raises:
        SettingsError: an ONNX file is to have other statistics, or onnxruntime is missing.
        DataError: the file is no student, or there are no test data that such a student can read.
    """
    vault = owner_vault(config, None)
    if batch_statistics and student.suffix == SUFFIX:
        raise SettingsError(
            f"{student}: statistics of an ONNX file are fixed; name the .safetensors"
        )
    opened = open_owner_student(vault, student)
    network, names = opened.network, opened.classes
    missing = DataError("there are no private test data to examine a student on; bring some")
    if batch_statistics:
        if (tests := vault.test_samples) is None:
            raise missing
        network = recalibrated(network, tests.samples)
    if vault.numbers:
        if sums := vault.number_sums(network, names):
            scores = pooled_number_scores(vault.numbers, [sums])
            return {"rows": max(sums["rows"]), **scores}
        raise missing
    if vault.tasks:
        if counts := vault.task_counts(network, names):
            of_student = vault.tasks if names is None else tasks_of_outputs(names)
            return _task_scores([task.name for task in of_student], counts)
        raise missing
    correct, examples = vault.score(network, names)
    if not examples:
        raise missing
    return correct, examples


def _task_scores(names: Sequence[str], counts: TaskCounts) -> NamedScores:
    """Accuracy of each task that is labelled, and of all together where all are."""
    pooled = pooled_task_accuracies(names, [counts])
    of_task = cast(Mapping[str, float | None], pooled["task_accuracy"])
    known = {name: share for name, share in of_task.items() if share is not None}
    together = cast(float | None, pooled["all_tasks_accuracy"])
    scores: NamedScores = known if together is None else {"all tasks": together, **known}
    return {"samples": max(counts["task_rows"]), **scores}


def open_owner_student(vault: Vault, student: Path) -> OpenedStudent:
    """The student in a file, for the samples of a vault.

    Raises:
        SettingsError: it is an ONNX file, and onnxruntime is not installed.
        DataError: the file is no student.
    """
    if student.suffix == SUFFIX:
        return open_onnx_student(student, vault.shape, vault.classes)
    return open_student(student, vault.columns)


def source_assets(config: OwnerConfig, source: str) -> Assets:
    """Another source of samples beside the owner's file, such as ``table:FILE.csv``."""
    folder = config.teacher.folder if isinstance(config.teacher, TeacherSpec) else None
    root = config.data.root if config.data else folder
    return Assets(data=source, root=None if root is None else str(root))


def owner_vault(config: OwnerConfig, progress: ProgressCallback | None) -> Vault:
    """The vault of an owner, for the kind of teacher that his configuration names.

    Raises:
        SettingsError: a teacher that is trained here, and no data.
    """
    assets = None if config.data is None else owner_assets(config.data, config.teacher)
    if isinstance(config.teacher, TeacherSpec):
        return ExternalVault(config.teacher, assets)
    if assets is None:
        raise SettingsError("a teacher that is trained here needs images; write a [data] table")
    folder, shrunk = config.state.folder / "teacher", config.teacher.shrunk
    if shrunk is None:
        return TrainedVault(assets, folder, progress)
    return ShrunkVault(assets, _shrink_settings(shrunk), folder, progress)


def _shrink_settings(t: ShrunkTable) -> ShrinkSettings:
    private = None if t.private is None else DpSgdSettings(**dict(t.private))
    augmentation = Augmentation(t.shift, t.mirrors)
    return ShrinkSettings(
        t.width, t.images, t.steps, t.last_steps, t.learning_rate, augmentation, private
    )


def owner_assets(d: DataTable, t: TeacherTable | TeacherSpec) -> Assets:
    """The owner's data, and the model to train on them, if there is one."""
    data = Assets(
        data=d.source,
        root=str(d.root),
        index=d.index,
        count=d.count,
        partition=d.partition,
        alpha=d.alpha,
        shards=d.shards,
        partition_file=None if d.partition_file is None else str(d.partition_file),
        partition_seed=d.partition_seed,
        tasks=(d.tasks,) if d.tasks else (),
    )
    if isinstance(t, TeacherSpec):
        return data
    return replace(
        data,
        model=t.model,
        class_names=t.class_names,
        task=t.task,
        seed=t.seed,
        training=SupervisedSettings(t.epochs, t.batch, t.learning_rate, t.weight_decay),
        dp_training=None if t.private is None else DpSgdSettings(**dict(t.private)),
        voters=t.voters,
        embedding=t.embedding,
    )
