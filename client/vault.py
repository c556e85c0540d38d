"""The one place of an institution where private images and weights are opened.

It knows no network, no policy and no budget; what leaves the institution is for ``release`` to
decide. It prints and logs nothing, and its errors name files and settings, never contents.
"""

import hashlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Self, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from client.teach import SCIKIT, PrivateSettings, TeachSettings, Watch, train_teacher
from fedkd.data import Dataset, open_data
from fedkd.errors import DataError, SettingsError
from fedkd.guarantee import Guarantee
from fedkd.metrics import logits
from fedkd.models import build
from fedkd.partition import partition, read_partition
from fedkd.teacher import ModuleTeacher, Teacher


@dataclass(frozen=True)
class Holding:
    """What an institution has, in its owner's words: its share of some data, and a model.

    An owner whose data are all his own leaves ``count`` at 1.

    Raises:
        SettingsError: a share that does not exist.
    """

    data: str = "digits"
    """A name that `fedkd.data.open_data` knows."""
    root: str | None = None
    """Where the data lie."""
    index: int = 0
    """Which share is his, 0..count-1."""
    count: int = 1
    """Institutions that share the data."""
    partition: str = "iid"
    """iid, dirichlet, shards, or file."""
    alpha: float = 0.5
    """Concentration of a Dirichlet partition."""
    shards: int = 2
    """Label shards for each institution."""
    partition_file: str | None = None
    """.npz of index arrays, where the partition is ``file``."""
    partition_seed: int = 0
    """The same for all who share the data."""
    model: str = "cnn"
    """A name that `client.teach.train_teacher` knows."""
    seed: int = 0
    """Of the training; institutions with one seed still train differently, by their index."""
    teach: TeachSettings = field(default_factory=TeachSettings)
    private: PrivateSettings | None = None
    """Where it is given the teacher is trained with differential privacy, and not by ``teach``."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise SettingsError(
                f"institution {self.index} of {self.count}; expected 0 to {self.count - 1}"
            )
        if (self.partition == "file") != (self.partition_file is not None):
            raise SettingsError(
                f"partition {self.partition!r} with partition_file {self.partition_file!r}; "
                f"give a file exactly where the partition is 'file'"
            )


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


class Vault:
    """An institution's images, labels and teacher, each opened when it is first needed."""

    def __init__(
        self, holding: Holding, folder: Path | None = None, watch: Watch | None = None
    ) -> None:
        self.holding, self._folder, self._watch = holding, folder, watch

    @classmethod
    def open(cls, holding: Holding, folder: Path | None = None, watch: Watch | None = None) -> Self:
        """The vault of a holding. Nothing is read yet.

        Args:
            holding: what the owner says that he has.
            folder: where a trained network is kept, readable to its owner alone, and found again
                while holding and data are what they were; None keeps nothing.
            watch: told how many epochs of training are done, and of how many.
        """
        return cls(holding, folder, watch)

    @property
    def classes(self) -> int:
        """K.

        Raises:
            DataError: the data cannot be opened. So does all else that is asked of a vault.
        """
        return self._shard.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        channels, height, width = self._shard.images.shape[1:]
        return channels, height, width

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Training images of each class, (K,). A disclosure, if it is told."""
        return tuple(torch.bincount(self._shard.labels, minlength=self.classes).tolist())

    @property
    def teacher(self) -> Teacher:
        """The holding's model, trained on its training images: once, where a folder keeps it."""
        return self._taught[0]

    @property
    def guarantee(self) -> Guarantee | None:
        """What the teacher's training promises; None where it promises nothing."""
        return self._taught[1]

    def score(self, model: nn.Module) -> tuple[int, int]:
        """How well a model does on the private test images: (right, of how many).

        The test images of a shared data set are dealt to its institutions in turn.

        Args:
            model: (B, C, H, W) float in [0, 1] -> (B, K). It is not changed.
        """
        shard = self._shard
        if not len(shard.test_labels):
            return 0, 0
        right = logits(model, shard.test_images).argmax(1) == shard.test_labels
        return int(right.sum()), len(right)

    @cached_property
    def _shard(self) -> _Shard:
        own, data = self.holding, _opened(self.holding.data, self.holding.root)
        if own.partition_file is not None:
            parts = read_partition(own.partition_file, own.count, len(data.train_labels))
        else:
            parts = partition(
                data.train_labels,
                own.count,
                own.partition,
                alpha=own.alpha,
                shards_per_institution=own.shards,
                seed=own.partition_seed,
            )
        mine, tested = parts[own.index], slice(own.index, None, own.count)
        return _Shard(
            data.train_images[mine],
            data.train_labels[mine],
            data.test_images[tested].clone(),
            data.test_labels[tested].clone(),
            data.classes,
        )

    @cached_property
    def _taught(self) -> Taught:
        # A classifier of scikit-learn's could only be kept as a pickle, which may run code when
        # it is read. It is fitted anew instead, in about a second.
        if self._folder is None or self.holding.model.startswith(SCIKIT):
            teacher, promised = self._train()
        else:
            teacher, promised = self._kept(self._folder) or self._keep(self._folder)
        if (asked := self.holding.private) is not None and not _kept_promise(asked, promised):
            raise DataError(
                f"the teacher does not keep the promise of epsilon {asked.epsilon} at delta "
                f"{asked.delta}; it is not served"
            )
        return teacher, promised

    def _train(self) -> Taught:
        own, shard = self.holding, self._shard
        told = (own.model, shard.images, shard.labels, shard.classes)
        seed = own.seed * own.count + own.index
        if own.private is None:
            return train_teacher(*told, own.teach, seed, self._watch), None
        # Opacus is slow to import, and most teachers are trained without it.
        from client.private_training import train_privately

        return train_privately(*told, own.private, seed, self._watch)

    def _origin(self) -> str:
        """A fingerprint of all that the teacher depends on: the holding and its training data."""
        digest = hashlib.sha256(json.dumps(asdict(self.holding), sort_keys=True).encode())
        digest.update(self._shard.images.numpy().tobytes())
        digest.update(self._shard.labels.numpy().tobytes())
        return digest.hexdigest()

    def _note(self, promised: object) -> dict[str, object]:
        return {
            "model": self.holding.model,
            "classes": self.classes,
            "shape": list(self.shape),
            "origin": self._origin(),
            "guarantee": promised,
        }

    def _kept(self, folder: Path) -> Taught | None:
        """The teacher that the folder keeps; None where it keeps none, or one of another origin."""
        weights, note = folder / "teacher.safetensors", folder / "teacher.json"
        if not (weights.is_file() and note.is_file()):
            return None
        network = build(self.holding.model, self.classes, self.shape, self.holding.seed)
        try:
            said = json.loads(note.read_text())
            promised = said.get("guarantee")
            if said != self._note(promised):
                return None
            guarantee = None if promised is None else Guarantee(**promised)
            network.load_state_dict(load(weights.read_bytes()))
        except (
            OSError,
            ValueError,
            TypeError,
            AttributeError,
            RuntimeError,
            SafetensorError,
            SettingsError,
        ):
            # What these say may quote the file, so nothing of it is passed on.
            raise DataError(
                f"the teacher in {folder} cannot be read; delete teacher.json there to train anew"
            ) from None
        return ModuleTeacher(network, self.classes), guarantee

    def _keep(self, folder: Path) -> Taught:
        """Train a teacher and keep it: the note last, so that it never tells of other weights."""
        teacher, promised = self._train()
        if isinstance(teacher, ModuleTeacher):
            weights = {n: t.contiguous() for n, t in teacher.module.state_dict().items()}
            note = self._note(None if promised is None else asdict(promised))
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                (folder / "teacher.json").unlink(missing_ok=True)
                _write_private(folder / "teacher.safetensors", save(weights))
                _write_private(folder / "teacher.json", json.dumps(note).encode())
            except OSError as error:
                raise DataError(
                    f"cannot keep the teacher in {folder}: {error.strerror}; make it writable"
                ) from error
        return teacher, promised


def _kept_promise(asked: PrivateSettings, promised: Guarantee | None) -> bool:
    """Whether a teacher, newly trained or found, promises what its owner asked for."""
    return (
        promised is not None and promised.epsilon <= asked.epsilon and promised.delta <= asked.delta
    )


@lru_cache(maxsize=1)
def _opened(name: str, root: str | None) -> Dataset:
    """Shared by the institutions of a simulation, which would else open it once each."""
    return open_data(name, root)


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        # The mode is set as the file is made: it is at no time open to others.
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
