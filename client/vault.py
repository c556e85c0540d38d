"""The one place of an institution where private images and weights are opened.

It knows no network, no policy and no budget; what leaves the institution is for ``release`` to
decide. It prints and logs nothing, and its errors name files and settings, never contents.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from client.committee import Committee
from client.holding import Holding
from client.kept import find, keep, note_of
from client.teach import SCIKIT, Watch, train_teacher
from client.teachers.opening import open_teacher
from client.teachers.spec import TeacherSpec
from client.voters import train_committee
from fedkd.data import Dataset, open_data
from fedkd.errors import DataError
from fedkd.guarantee import Guarantee
from fedkd.metrics import logits
from fedkd.models import build
from fedkd.partition import Deal, deal, partition, read_partition
from fedkd.teacher import ModuleTeacher, Teacher

Taught: TypeAlias = tuple[Teacher, Guarantee | None]
"""A teacher, and what its training promises."""


@dataclass(frozen=True, eq=False)
class _Shard:
    """An institution's own part. Its printed form shows no content."""

    images: Tensor = field(repr=False)
    """(N, C, H, W) uint8."""
    labels: Tensor = field(repr=False)
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    classes: int = 0


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
    def _shard(self) -> _Shard:
        own, data = self.holding, _opened(self.holding.data, self.holding.root)
        if own.names and len(own.names) != data.classes:
            raise DataError(
                f"class_names names {len(own.names)} classes and the data have {data.classes}; "
                "name each of them, in their order"
            )
        dealt = _dealt(replace(own, index=0, model=""))
        mine, tested = dealt.parts[own.index], dealt.tests[own.index]
        classes = dealt.known[own.index]
        number = torch.full((data.classes,), -1)
        number[list(classes)] = torch.arange(len(classes))
        return _Shard(
            data.train_images[mine],
            number[data.train_labels[mine]],
            data.test_images[tested],
            number[data.test_labels[tested]],
            len(classes),
        )

    @cached_property
    def _taught(self) -> Taught:
        # A classifier of scikit-learn's could only be kept as a pickle, which may run code when
        # it is read. It is fitted anew instead, in about a second.
        teacher: Teacher
        if self.holding.voters:
            return self._committee(), None
        if self._folder is None or self.holding.model.startswith(SCIKIT):
            teacher, promised = self._train()
        else:
            teacher, promised = self._kept(self._folder)
        asked = self.holding.private
        if asked is not None and not (promised and promised.keeps(asked.epsilon, asked.delta)):
            raise DataError(
                f"the teacher does not keep the promise of epsilon {asked.epsilon} at delta "
                f"{asked.delta}; it is not served"
            )
        return teacher, promised

    def _kept(self, folder: Path) -> Taught:
        shard, own = self._shard, self.holding
        note = note_of(own.model, shard.classes, shard.images, shard.labels, asdict(own))
        network = build(self.holding.model, self.classes, self.shape, self.holding.seed)
        if found := find(folder, note, network):
            return ModuleTeacher(found[0], self.classes), found[1]
        teacher, promised = self._train()
        if isinstance(teacher, ModuleTeacher):
            keep(folder, note, teacher, promised)
        return teacher, promised

    def _committee(self) -> Committee:
        own, shard = self.holding, self._shard
        told = (own.model, shard.images, shard.labels, shard.classes)
        return train_committee(
            *told,
            own.teach,
            own.voters,
            own.seed * own.count + own.index,
            self._folder,
            asdict(own),
            self._watch,
        )

    def _train(self) -> Taught:
        own, shard = self.holding, self._shard
        told = (own.model, shard.images, shard.labels, shard.classes)
        seed = own.seed * own.count + own.index
        if own.private is None:
            return train_teacher(*told, own.teach, seed, self._watch), None
        # Opacus is slow to import, and most teachers are trained without it.
        from client.private_training import train_privately

        return train_privately(*told, own.private, seed, self._watch)


class BroughtVault(Vault):
    """A vault whose teacher was trained elsewhere; see `Vault.bring`."""

    class_counts = None
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
            SettingsError: see `client.teachers.opening.open_teacher`.
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


@lru_cache(maxsize=1)
def _opened(name: str, root: str | None) -> Dataset:
    """Shared by the institutions of a simulation, which would else open it once each."""
    return open_data(name, root)


@lru_cache(maxsize=1)
def _dealt(share: Holding) -> Deal:
    """How the data of a share are dealt out; a thousand institutions would deal a thousand times.

    Args:
        share: of anybody, with nothing in it that differs from one institution to another.
    """
    data = _opened(share.data, share.root)
    if share.partition_file is not None:
        parts = read_partition(share.partition_file, share.count, len(data.train_labels))
    else:
        parts = partition(
            data.train_labels,
            share.count,
            share.partition,
            alpha=share.alpha,
            shards_per_institution=share.shards,
            seed=share.partition_seed,
        )
    return deal(parts, data.train_labels, data.test_labels, data.classes, share.labels)
