"""The one place of an institution where private images and weights are opened.

It knows no network, no policy and no budget; what leaves the institution is for ``release`` to
decide. It prints and logs nothing, and its errors name files and settings, never contents.
"""

import hashlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from fedkd.client.ledger.dataset_accounts import Training
from fedkd.client.vault.assets import Holding
from fedkd.client.vault.local_data import Shard, open_shard
from fedkd.client.vault.model_cache import Kept, find, keep, note_of
from fedkd.client.vault.pate_ensemble import Committee
from fedkd.client.vault.teachers.opening import open_teacher
from fedkd.client.vault.teachers.spec import TeacherSpec
from fedkd.client.vault.training.pate import train_committee
from fedkd.client.vault.training.supervised import SCIKIT, Watch, train_teacher
from fedkd.errors import DataError
from fedkd.evaluation.metrics import logits
from fedkd.models.networks import build
from fedkd.models.teacher import ModuleTeacher, Teacher
from fedkd.protocol.guarantee import Guarantee

Taught: TypeAlias = tuple[Teacher, Guarantee | None]
"""A teacher, and what its training promises."""


class Vault(ABC):
    """An institution's images, labels and teacher, each opened when it is first needed.

    Whatever is asked of a vault raises `DataError` or `SettingsError` where that cannot be opened.
    """

    @staticmethod
    def open(
        holding: Holding, folder: Path | None = None, watch: Watch | None = None
    ) -> "TrainedVault":
        """The vault of a holding, whose teacher is trained on it. Nothing is read yet.

        Args:
            holding: what the owner says that he has.
            folder: where a trained network is kept, readable to its owner alone, and found again
                while holding and data are what they were; None keeps nothing.
            watch: told how many epochs of training are done, and of how many.
        """
        return TrainedVault(holding, folder, watch)

    @staticmethod
    def bring(spec: TeacherSpec, holding: Holding | None = None) -> "BroughtVault":
        """The vault of a teacher that was trained elsewhere. Nothing is read yet.

        Args:
            spec: what the owner says of it.
            holding: private data whose test images score students; its model is not used.
        """
        return BroughtVault(spec, holding)

    @property
    @abstractmethod
    def classes(self) -> int:
        """K."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...] | None:
        """(K,) names of the teacher's outputs; None where they are numbers."""

    @property
    @abstractmethod
    def class_counts(self) -> tuple[int, ...] | None:
        """Training images of each class, (K,); None where nobody knows. A disclosure, if told."""

    @property
    @abstractmethod
    def scores(self) -> bool:
        """Whether there are test images to score a student on."""

    @property
    @abstractmethod
    def teacher(self) -> Teacher:
        """Ready to be asked."""

    @property
    @abstractmethod
    def fingerprints(self) -> tuple[bytes, ...]:
        """Of the teacher's training images, whatever their labels; none where nobody knows them.

        Whoever has an image can tell whether it is among them: for the owner's books alone.
        """

    @property
    @abstractmethod
    def training(self) -> Training | None:
        """The private training that the teacher comes from; None where there is none.

        Of a teacher that is kept it was; else it is the one that begins as `teacher` is asked
        for, so that it can be charged before.
        """

    @property
    @abstractmethod
    def guarantee(self) -> Guarantee | None:
        """What the teacher's training promises; None where it promises nothing."""

    @abstractmethod
    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """How well a model does on the private test images: (right, of how many).

        The test images of a shared data set are dealt in turn to institutions that know their
        class.

        Args:
            model: (B, C, H, W) float in [0, 1] -> (B, K). It is not changed.
            classes: names of its outputs; None: they are the institution's own classes. A class
                that it has no output for is never right.
        """


class TrainedVault(Vault):
    """A vault that trains its teacher on its own images; see `Vault.open`."""

    scores = True

    def __init__(
        self, holding: Holding, folder: Path | None = None, watch: Watch | None = None
    ) -> None:
        self.holding, self._folder, self._watch = holding, folder, watch

    @property
    def classes(self) -> int:
        """See `Vault.classes`."""
        return self._shard.classes

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What the classes are called, (K,); None: by their numbers."""
        sets = self.holding.labels
        return sets[self.holding.index % len(sets)] if sets else self.holding.names or None

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Vault.shape`."""
        channels, height, width = self._shard.images.shape[1:]
        return channels, height, width

    @property
    def class_counts(self) -> tuple[int, ...]:
        """See `Vault.class_counts`; they are known."""
        return tuple(torch.bincount(self._shard.labels, minlength=self.classes).tolist())

    @property
    def fingerprints(self) -> tuple[bytes, ...]:
        """See `Vault.fingerprints`."""
        images = self._shard.images.contiguous().numpy()
        return tuple(hashlib.sha256(image.tobytes()).digest() for image in images)

    @property
    def teacher(self) -> Teacher:
        """The holding's model, trained on its training images: once, where a folder keeps it."""
        return self._taught[0]

    @cached_property
    def training(self) -> Training | None:
        """See `Vault.training`."""
        asked = self.holding.private
        if asked is None:
            return None
        found = self._found
        # A note from before trainings had keys names the images and settings; so few may share it.
        key = (
            secrets.token_hex(16) if found is None else found.training or str(self._note["origin"])
        )
        return Training(key, asked.epsilon, asked.delta)

    @property
    def guarantee(self) -> Guarantee | None:
        """See `Vault.guarantee`."""
        return self._taught[1]

    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """See `Vault.score`."""
        shard = self._shard
        if not len(shard.test_labels):
            return 0, 0
        truth = shard.test_labels
        if classes is not None:
            output = {name: place for place, name in enumerate(classes)}
            names = self.class_names or tuple(map(str, range(self.classes)))
            truth = torch.tensor([output.get(name, -1) for name in names])[truth]
        right = logits(model, shard.test_images).argmax(1) == truth
        return int(right.sum()), len(right)

    @cached_property
    def _shard(self) -> Shard:
        return open_shard(self.holding)

    @cached_property
    def _taught(self) -> Taught:
        teacher: Teacher
        if self.holding.voters:
            return self._committee(), None
        if found := self._found:
            teacher, promised = ModuleTeacher(found.network, self.classes), found.promised
        else:
            teacher, promised = self._train()
            if self._folder is not None and isinstance(teacher, ModuleTeacher):
                key = "" if self.training is None else self.training.key
                keep(self._folder, self._note, teacher, promised, key)
        asked = self.holding.private
        if asked is not None and not (promised and promised.keeps(asked.epsilon, asked.delta)):
            raise DataError(
                f"the teacher does not keep the promise of epsilon {asked.epsilon} at delta "
                f"{asked.delta}; it is not served"
            )
        return teacher, promised

    @cached_property
    def _note(self) -> dict[str, object]:
        """All that the teacher depends on."""
        own, shard = self.holding, self._shard
        return note_of(own.model, shard.classes, shard.images, shard.labels, own.note)

    @cached_property
    def _found(self) -> Kept | None:
        """The network that the folder keeps of this very holding and these data."""
        own = self.holding
        # A classifier of scikit-learn's could only be kept as a pickle, which may run code when
        # it is read. It is fitted anew instead, in about a second.
        if self._folder is None or own.voters or own.model.startswith(SCIKIT):
            return None
        return find(self._folder, self._note, build(own.model, self.classes, self.shape, own.seed))

    def _committee(self) -> Committee:
        own, shard = self.holding, self._shard
        told = (own.model, shard.images, shard.labels, shard.classes)
        return train_committee(
            *told,
            own.teach,
            own.voters,
            own.seed * own.count + own.index,
            self._folder,
            own.note,
            self._watch,
        )

    def _train(self) -> Taught:
        own, shard = self.holding, self._shard
        told = (own.model, shard.images, shard.labels, shard.classes)
        seed = own.seed * own.count + own.index
        if own.private is None:
            return train_teacher(*told, own.teach, seed, self._watch), None
        # Opacus is slow to import, and most teachers are trained without it.
        from fedkd.client.vault.training.dp_sgd import train_privately

        return train_privately(*told, own.private, seed, self._watch)


class BroughtVault(Vault):
    """A vault whose teacher was trained elsewhere; see `Vault.bring`."""

    class_counts = None
    training = None
    guarantee = None
    fingerprints = ()

    def __init__(self, spec: TeacherSpec, holding: Holding | None = None) -> None:
        self.spec = spec
        self._tests = None if holding is None else Vault.open(holding)

    @property
    def classes(self) -> int:
        """As the owner says; the teacher is held to it when it is opened. So is its shape."""
        return self.spec.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Vault.shape`."""
        return self.spec.shape

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """See `Vault.class_names`."""
        return self.spec.class_names

    @property
    def scores(self) -> bool:
        """See `Vault.scores`."""
        return self._tests is not None

    @cached_property
    def teacher(self) -> Teacher:
        """Opened, and asked once.

        Raises:
            SettingsError: see `fedkd.client.vault.teachers.opening.open_teacher`.
            DataError: likewise, or the test data are of another shape or have more classes.
        """
        tests = self._tests
        if tests is not None and (tests.shape != self.shape or tests.classes > self.classes):
            raise DataError(
                f"the test data are {tests.classes} classes of {list(tests.shape)} and the "
                f"teacher reads {self.classes} of {list(self.shape)}; name data that fit it"
            )
        return open_teacher(self.spec)

    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """See `Vault.score`. The test data call their classes by numbers, the teacher may not."""
        if self._tests is None:
            return 0, 0
        if classes is not None and self.class_names is not None:
            number = {name: str(place) for place, name in enumerate(self.class_names)}
            classes = [number.get(name, "") for name in classes]
        return self._tests.score(model, classes)
