"""Access to private data and a teacher that is trained on them, or loaded from the cache."""

import hashlib
import secrets
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fedkd.client.ledger.dataset_privacy_spending import DpTraining
from fedkd.client.vault.disk_model_cache import (
    CachedModel,
    cache_metadata,
    load_cached_model,
    store_model,
)
from fedkd.client.vault.local_data import LocalData, open_local_data
from fedkd.client.vault.pate_ensemble import PateEnsemble
from fedkd.client.vault.student_scores import found_among, sums_of_student
from fedkd.client.vault.training.model_check import check_several_tasks, check_trainable
from fedkd.client.vault.training.pate import train_pate_ensemble
from fedkd.client.vault.training.settings import DpSgdSettings, ProgressCallback
from fedkd.client.vault.training.supervised import (
    SKLEARN_PREFIX,
    check_samples,
    summed_cross_entropy,
    train_teacher,
)
from fedkd.client.vault.training.supervised_contrastive import supervised_contrastive
from fedkd.client.vault.training.supervised_tables import (
    build_teacher_network,
    check_rows,
    train_table_teacher,
)
from fedkd.client.vault.vault import LabelledSamples, Vault
from fedkd.client.vault.vault_settings import Assets
from fedkd.errors import DataError, SettingsError
from fedkd.evaluation import predict_logits
from fedkd.models import EmbeddingTeacher, ModuleTeacher, Teacher
from fedkd.protocol import (
    Column,
    Guarantee,
    NamedTask,
    Number,
    named_tasks,
    output_names_of,
    task_slices,
    tasks_of_outputs,
)
from fedkd.tasks import NumberSums, TaskCounts, task_counts

TrainedTeacher: TypeAlias = tuple[Teacher, Guarantee | None]
"""A teacher, and the DP guarantee of its training."""


class TrainedVault(Vault):
    """The vault of some assets, whose teacher is trained on their data. Nothing is read yet.

    Args:
        assets: the owner's data, and the model to train on them.
        folder: where a trained network is cached, readable to its owner alone, and found again
            while assets and data are unchanged; None caches nothing.
        progress: told how many epochs of training are done, and of how many.
    """

    def __init__(
        self, assets: Assets, folder: Path | None = None, progress: ProgressCallback | None = None
    ) -> None:
        self.assets, self._folder, self._progress = assets, folder, progress

    @property
    def scores(self) -> bool:
        """See `Vault.scores`."""
        return True

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `Vault.columns`."""
        return self._data.columns

    @property
    def numbers(self) -> tuple[Number, ...]:
        """See `Vault.numbers`."""
        return self._data.numbers

    @property
    def classes(self) -> int:
        """See `Vault.classes`."""
        return self.assets.embedding or self._data.classes

    @property
    def embedding(self) -> bool:
        """See `Vault.embedding`."""
        return self.assets.embedding is not None

    @property
    def tasks(self) -> tuple[NamedTask, ...]:
        """See `Vault.tasks`: those of the data, or the one of which the owner says they are."""
        if self.assets.tasks_as_classes or self.embedding:
            return ()
        if self.assets.task is None:
            return self._data.tasks
        names = self.class_names or tuple(map(str, range(self.classes)))
        return named_tasks({self.assets.task: names})

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """See `Vault.class_names`."""
        if self.embedding:
            return None
        if of_data := self._data.tasks:
            alone = len(of_data) == 1 and not self.assets.tasks_as_classes
            return of_data[0].class_names if alone else output_names_of(of_data)
        sets = self.assets.labels
        if sets:
            return sets[self.assets.index % len(sets)]
        return self.assets.class_names or self._data.class_names or None

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Vault.shape`."""
        channels, height, width = self._data.images.shape[1:]
        return channels, height, width

    @property
    def class_counts(self) -> tuple[int, ...] | None:
        """See `Vault.class_counts`; they are known, where there are classes."""
        if self._data.numbers or self.embedding:
            return None
        columns = _columns_of(self._data.labels).unbind(1)
        counts = [
            own.bincount(minlength=at.stop - at.start)
            for own, at in zip(columns, self._groups, strict=True)
        ]
        return tuple(torch.cat(counts).tolist())

    @property
    def fingerprints(self) -> tuple[bytes, ...]:
        """See `Vault.fingerprints`."""
        images = self._data.images.contiguous().numpy()
        return tuple(hashlib.sha256(image.tobytes()).digest() for image in images)

    @property
    def training_samples(self) -> LabelledSamples:
        """See `Vault.training_samples`."""
        return LabelledSamples(self._data.images, self._data.labels)

    @property
    def test_samples(self) -> LabelledSamples:
        """See `Vault.test_samples`."""
        return LabelledSamples(self._data.test_images, self._data.test_labels)

    @property
    def teacher(self) -> Teacher:
        """The model trained on the training data: once, where a folder caches it."""
        teacher = self._trained[0]
        return EmbeddingTeacher(teacher) if self.embedding else teacher

    @cached_property
    def dp_training(self) -> DpTraining | None:
        """See `Vault.dp_training`."""
        target = self._dp_target
        if target is None:
            return None
        cached = self._cached
        if cached is None:
            self.check_model()  # a training that cannot begin is not charged
        # Metadata from before trainings had keys identify data and settings, which few may share.
        key = (
            secrets.token_hex(16)
            if cached is None
            else cached.training_key or str(self._metadata["origin"])
        )
        return DpTraining(key, target.epsilon, target.delta)

    @property
    def guarantee(self) -> Guarantee | None:
        """See `Vault.guarantee`."""
        return self._trained[1]

    def check_model(self) -> None:
        """Check that the model can be trained on these data, without training it.

        Raises:
            SettingsError: see `fedkd.client.vault.training.model_check.check_trainable`.
            DataError: the data cannot be opened.
        """
        own, data = self.assets, self._data
        private = own.dp_training is not None
        if len(data.tasks) > 1:
            check_several_tasks(own.model, noisy=private or own.voters > 0, rows=bool(data.columns))
        other = data.columns or data.tasks or own.model.startswith(SKLEARN_PREFIX)
        if self.embedding and other:
            raise SettingsError(
                f"no embedding by model {own.model!r}; expected a network, and images of one task"
            )
        check_trainable(
            *(own.model, self.classes, self.shape, data.columns, data.numbers),
            private=private,
            augmented=bool(own.training.augmentation),
        )

    def check_samples(self) -> None:
        """Check that there are enough data to train the model on; DP training takes any number.

        Raises:
            DataError: there are not, or they cannot be opened.
        """
        own, data = self.assets, self._data
        if own.dp_training is not None or own.voters:
            return
        if data.columns:
            check_rows(own.model, data.labels, data.numbers)
        else:
            check_samples(own.model, data.labels)

    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """See `Vault.score`."""
        data = self._data
        if not len(data.test_labels):
            return 0, 0
        truth = data.test_labels
        if self.embedding:
            return found_among(model, data.test_images, truth)
        if classes is not None:
            output = {name: place for place, name in enumerate(classes)}
            names = self.class_names or tuple(map(str, range(self.classes)))
            truth = torch.tensor([output.get(name, -1) for name in names])[truth]
        correct = predict_logits(model, data.test_images).argmax(1) == truth
        return int(correct.sum()), len(correct)

    def task_counts(
        self, model: nn.Module, names: Sequence[str] | None = None
    ) -> TaskCounts | None:
        """See `Vault.task_counts`."""
        data, own = self._data, self.tasks
        if not len(data.test_labels):
            return None
        of_model = own if names is None else tasks_of_outputs(names)
        said = predict_logits(model, data.test_images)
        fits = said.shape[1] == len(output_names_of(of_model))
        if not fits or not {task.name for task in own} <= {task.name for task in of_model}:
            raise DataError(
                f"a student of {len(of_model)} tasks lacks one of the {len(own)} that the test "
                "data have; name the student of a run that this institution took part in"
            )
        return task_counts(said, of_model, own, _columns_of(data.test_labels))

    def number_sums(
        self, model: nn.Module, names: Sequence[str] | None = None
    ) -> NumberSums | None:
        """See `Vault.number_sums`."""
        data = self._data
        if not len(data.test_labels):
            return None
        own = [number.name for number in data.numbers]
        return sums_of_student(model, data.test_images, data.test_labels, own, names or own)

    @property
    def _dp_target(self) -> DpSgdSettings | None:
        """The guarantee that the training aims at; None where it promises nothing."""
        return self.assets.dp_training

    @property
    def _groups(self) -> tuple[slice, ...]:
        """Outputs of each task; of one task all."""
        return tuple(task_slices(self._data.tasks).values()) or (slice(0, self.classes),)

    @cached_property
    def _data(self) -> LocalData:
        return open_local_data(self.assets)

    @cached_property
    def _trained(self) -> TrainedTeacher:
        teacher: Teacher
        if self.assets.voters:
            return self._train_pate(), None
        if cached := self._cached:
            teacher, guarantee = ModuleTeacher(cached.network, self.classes), cached.guarantee
        else:
            teacher, guarantee = self._train()
            if self._folder is not None and isinstance(teacher, ModuleTeacher):
                key = "" if self.dp_training is None else self.dp_training.key
                store_model(self._folder, self._metadata, teacher, guarantee, key)
        target = self._dp_target
        if target and not (guarantee and guarantee.implies(target.epsilon, target.delta)):
            raise DataError(
                f"the teacher does not keep the guarantee of epsilon {target.epsilon} at delta "
                f"{target.delta}; it is not served"
            )
        return teacher, guarantee

    @cached_property
    def _metadata(self) -> dict[str, object]:
        """All that the teacher depends on, as the cache stores it."""
        own, data = self.assets, self._data
        return cache_metadata(own.model, data.classes, data.images, data.labels, own.cache_fields)

    @cached_property
    def _cached(self) -> CachedModel | None:
        """The cached network of these assets and data, if there is one."""
        own = self.assets
        # A classifier of scikit-learn could only be cached as a pickle, which may run code when it
        # is read. It is fitted again instead, in about a second.
        if self._folder is None or own.voters or own.model.startswith(SKLEARN_PREFIX):
            return None
        network = build_teacher_network(own.model, self.classes, self.shape, self.columns, own.seed)
        return load_cached_model(self._folder, self._metadata, network)

    def _train_pate(self) -> PateEnsemble:
        own, data = self.assets, self._data
        self.check_model()
        return train_pate_ensemble(
            own.model,
            data.images,
            data.labels,
            data.classes,
            own.training,
            own.voters,
            own.seed * own.count + own.index,
            self._folder,
            own.cache_fields,
            self._progress,
        )

    def _train(self) -> TrainedTeacher:
        own, data = self.assets, self._data
        self.check_model()
        model_and_data = (own.model, data.images, data.labels, self.classes)
        table, seed = (data.columns, data.numbers), own.seed * own.count + own.index
        if own.dp_training is None and data.columns:
            trained = train_table_teacher(
                *model_and_data, *table, own.training, seed, self._progress
            )
            return trained, None
        if own.dp_training is None:
            loss = supervised_contrastive if self.embedding else summed_cross_entropy(self._groups)
            return train_teacher(*model_and_data, own.training, seed, self._progress, loss), None
        # Opacus is slow to import, and most teachers are trained without it.
        from fedkd.client.vault.training.dp_sgd import train_with_dp_sgd

        return train_with_dp_sgd(*model_and_data, own.dp_training, seed, self._progress, *table)


def _columns_of(labels: Tensor) -> Tensor:
    """Labels (N,) or (N, M) as (N, M)."""
    return labels if labels.ndim > 1 else labels[:, None]
