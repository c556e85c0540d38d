"""Cache of trained networks in a folder that only the owner can read: store, find, load.

No data are cached. Metadata with a digest of the training data tell whether a network is current.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from fedkd.errors import DataError, SettingsError
from fedkd.models import ModuleTeacher
from fedkd.protocol import Guarantee

WEIGHTS, METADATA, KEY = "teacher.safetensors", "teacher.json", "key"
GUARANTEE, TRAINING_KEY, DIGEST = "guarantee", "training", "weights"
"""Entries of the metadata: the DP guarantee of the training, its key in the ledger, and the digest
of the weights, which files of earlier releases lack."""


@dataclass(frozen=True)
class CachedModel:
    """A network that was loaded from the cache."""

    network: nn.Module
    guarantee: Guarantee | None
    """DP guarantee of its training."""
    training_key: str
    """Key of that training in the ledger; "" of one without a guarantee."""


def cache_metadata(
    model: str, classes: int, images: Tensor, labels: Tensor, assets: Mapping[str, object]
) -> dict[str, object]:
    """All that a trained network depends on; of the data and the assets, a digest."""
    origin = hashlib.sha256(json.dumps(assets, sort_keys=True).encode())
    origin.update(images.numpy().tobytes())
    origin.update(labels.numpy().tobytes())
    shape = list(images.shape[1:])
    return {"model": model, "classes": classes, "shape": shape, "origin": origin.hexdigest()}


def load_cached_model(
    folder: Path, metadata: Mapping[str, object], network: nn.Module
) -> CachedModel | None:
    """The network that is cached with exactly these metadata; None where there is none.

    Args:
        folder: need not exist.
        metadata: all that the network depends on, as JSON would give it back.
        network: of its architecture; its weights are overwritten.

    Raises:
        DataError: the cache cannot be read.
    """
    weights, file = folder / WEIGHTS, folder / METADATA
    if not (weights.is_file() and file.is_file()):
        return None
    try:
        stored = json.loads(file.read_text())
        values, training_key = stored.pop(GUARANTEE, None), stored.pop(TRAINING_KEY, "")
        digest, content = stored.pop(DIGEST, None), weights.read_bytes()
        if stored != metadata:
            return None
        if digest not in (None, _digest(content)):
            raise ValueError("of another training")
        guarantee = None if values is None else Guarantee(**values)
        network.load_state_dict(load(content))
    except (
        *(OSError, ValueError, TypeError, AttributeError),
        *(RuntimeError, SafetensorError, SettingsError),
    ):
        # The texts of these may quote the file, so none is passed on.
        raise DataError(
            f"the teacher in {folder} cannot be read; delete {METADATA} there to train anew"
        ) from None
    return CachedModel(network, guarantee, str(training_key))


def store_model(
    folder: Path,
    metadata: Mapping[str, object],
    teacher: ModuleTeacher,
    guarantee: Guarantee | None = None,
    training_key: str = "",
) -> None:
    """Cache a network. Metadata are written last, with a digest of the weights they belong to.

    Args:
        folder: made where there is none.
        metadata: all that the network depends on.
        teacher: has the network.
        guarantee: of its training.
        training_key: of that training in the ledger.

    Raises:
        DataError: the folder cannot be written.
    """
    weights = {n: t.contiguous() for n, t in teacher.module.state_dict().items()}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / METADATA).unlink(missing_ok=True)
        _write_private(folder / WEIGHTS, content := save(weights))
        values = None if guarantee is None else asdict(guarantee)
        own = {GUARANTEE: values, TRAINING_KEY: training_key, DIGEST: _digest(content)}
        stored = {**metadata, **own}
        _write_private(folder / METADATA, json.dumps(stored).encode())
    except OSError as error:
        raise DataError(
            f"cannot keep the teacher in {folder}: {error.strerror}; make it writable"
        ) from error


def load_or_create_key(folder: Path | None) -> bytes:
    """The folder's 32 secret bytes, created at the first call; without a folder, new ones.

    Raises:
        DataError: the folder cannot be read or written, or they are no key.
    """
    if folder is None:
        return secrets.token_bytes(32)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / KEY).is_file():
            _write_private(folder / KEY, secrets.token_bytes(32))
        key = (folder / KEY).read_bytes()
    except OSError as error:
        raise DataError(f"cannot keep a key in {folder}: {error.strerror}") from error
    if len(key) != 32:
        raise DataError(f"{folder / KEY} is no key of ours; delete it to have one made")
    return key


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


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
