"""A network that was trained once, kept in a folder that only its owner can read.

Keeps no data: a note of what the network was trained on tells whether it is still the right one.
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
from torch import Tensor

from fedkd.errors import DataError, SettingsError
from fedkd.models.networks import Network
from fedkd.models.teacher import ModuleTeacher
from fedkd.protocol.guarantee import Guarantee

WEIGHTS, NOTE, KEY = "teacher.safetensors", "teacher.json", "key"
PROMISE, TRAINING = "guarantee", "training"
"""Keys of the note under which a promise of differential privacy stands, and which training it is
of, as the books know it."""


@dataclass(frozen=True)
class Kept:
    """A network that was found again."""

    network: Network
    promised: Guarantee | None
    """By its training."""
    training: str
    """Key of that training; "" of one that promises nothing."""


def note_of(
    model: str, classes: int, images: Tensor, labels: Tensor, holding: Mapping[str, object]
) -> dict[str, object]:
    """All that a network of these images depends on; of the images and the holding, a digest."""
    origin = hashlib.sha256(json.dumps(holding, sort_keys=True).encode())
    origin.update(images.numpy().tobytes())
    origin.update(labels.numpy().tobytes())
    shape = list(images.shape[1:])
    return {"model": model, "classes": classes, "shape": shape, "origin": origin.hexdigest()}


def find(folder: Path, note: Mapping[str, object], network: Network) -> Kept | None:
    """The network that the folder keeps under this very note; None where it keeps none.

    Args:
        folder: need not be there.
        note: all that the network depends on, as JSON would give it back.
        network: of its architecture; its weights are overwritten.

    Raises:
        DataError: what is kept cannot be read.
    """
    weights, noted = folder / WEIGHTS, folder / NOTE
    if not (weights.is_file() and noted.is_file()):
        return None
    try:
        said = json.loads(noted.read_text())
        promised, training = said.pop(PROMISE, None), said.pop(TRAINING, "")
        if said != note:
            return None
        guarantee = None if promised is None else Guarantee(**promised)
        network.load_state_dict(load(weights.read_bytes()))
    except (
        *(OSError, ValueError, TypeError, AttributeError),
        *(RuntimeError, SafetensorError, SettingsError),
    ):
        # What these say may quote the file, so nothing of it is passed on.
        raise DataError(
            f"the teacher in {folder} cannot be read; delete {NOTE} there to train anew"
        ) from None
    return Kept(network, guarantee, str(training))


def keep(
    folder: Path,
    note: Mapping[str, object],
    teacher: ModuleTeacher,
    promised: Guarantee | None = None,
    training: str = "",
) -> None:
    """Keep a network: the note last, so that it never tells of other weights.

    Args:
        folder: made where there is none.
        note: all that the network depends on.
        teacher: has the network.
        promised: by its training.
        training: key of that training.

    Raises:
        DataError: the folder cannot be written.
    """
    weights = {n: t.contiguous() for n, t in teacher.module.state_dict().items()}
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / NOTE).unlink(missing_ok=True)
        _write_private(folder / WEIGHTS, save(weights))
        promise = None if promised is None else asdict(promised)
        whole = {**note, PROMISE: promise, TRAINING: training}
        _write_private(folder / NOTE, json.dumps(whole).encode())
    except OSError as error:
        raise DataError(
            f"cannot keep the teacher in {folder}: {error.strerror}; make it writable"
        ) from error


def key_of(folder: Path | None) -> bytes:
    """32 secret bytes that a folder keeps, made when they are first wanted; None: new ones.

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
