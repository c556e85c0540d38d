"""The folder that a run leaves behind, and its way back. Knows no loop and no page.

    result.json          what the run came to; written last, so it marks a finished run
    events.jsonl         what happened on the way, one JSON object a line
    gallery.npz          invented images
    student.safetensors  the last student, and student.onnx where the extra is installed
    experiment.json      what is run, written first, and checkpoint/ while it runs: the way back
                         of a run that was cut short, see `fedkd.server.run.checkpoint`
    report.html          the page, made from the files above by `fedkd.server.report.page`

Files that the page needs are written whole or not at all, but for the events, which grow.
"""

import fcntl
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedkd.errors import DataError, SettingsError
from fedkd.server.report.export import export_onnx, save_student
from fedkd.server.report.result_records import (
    Event,
    Gallery,
    Record,
    Result,
    read_event,
    read_result,
)

RESULT = "result.json"
EVENTS = "events.jsonl"
GALLERY = "gallery.npz"
PAGE = "report.html"


class RunFolder:
    """A run's folder, open for writing by one process."""

    def __init__(self, path: Path, events: int) -> None:
        """Use `create` or `resume`."""
        self.path = path
        self.events = events
        """Events written so far: a checkpoint keeps this number for `resume`."""

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make the folder.

        Raises:
            SettingsError: it is there already and holds something, or cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            # A run that was killed as it began may have left half of a hidden file.
            taken = any(not file.name.startswith(".") for file in path.iterdir())
        except OSError as error:
            raise SettingsError(
                f"cannot make the run folder {path}: {error.strerror}; name another one"
            ) from None
        if taken:
            raise SettingsError(f"the run folder {path} is not empty; name another one or empty it")
        return cls(path, events=0)

    @classmethod
    def resume(cls, path: Path, events: int) -> "RunFolder":
        """Reopen the folder of a run that was cut short, as it was after ``events`` events.

        Later events are dropped, since the resumed run writes them again.

        Raises:
            DataError: fewer events are on disk than the checkpoint knew of.
        """
        file = path / EVENTS
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        if len(whole) < events:
            raise DataError(
                f"{file} holds {len(whole)} events; the checkpoint knew of {events}; "
                "start the run again in another folder"
            )
        if lines:
            write_whole(file, b"".join(whole[:events]))
        return cls(path, events)

    def event(self, event: Mapping[str, Any]) -> None:
        """Append one event, checked and flushed; numbers that are not finite become null.

        Raises:
            DataError: the event's kind or one of its fields is not in the contract
                (`fedkd.server.report.result_records`), or it cannot be written.
        """
        plain = _plain(event)
        read_event(plain, f"event {self.events + 1}")
        try:
            with (self.path / EVENTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
        except OSError as error:
            raise DataError(
                f"cannot write {self.path / EVENTS}: {error.strerror}; make room there"
            ) from error
        self.events += 1

    def told(self) -> list[dict[str, Any]]:
        """Every event so far, as it was written."""
        file = self.path / EVENTS
        lines = file.read_bytes().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def settle(self) -> int:
        """Events so far, which are on the disk once this returns."""
        if self.events:
            _settle(self.path / EVENTS)
        return self.events

    def write_result(self, result: Mapping[str, Any]) -> Result:
        """Write ``result.json`` whole or not at all, then check it.

        It is on disk even where the check fails: a long run is not lost to a missing key.

        Raises:
            DataError: it is written, and does not keep the contract (`Result`).
        """
        plain = _plain(result)
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
        write_whole(self.path / RESULT, (text + "\n").encode())
        return read_result(plain, RESULT)

    def write_gallery(self, gallery: Gallery) -> None:
        """Write the invented images, whole or not at all."""
        content = io.BytesIO()
        np.savez_compressed(
            content,
            images=gallery.images,
            origin=gallery.origin,
            asked_at=gallery.asked_at,
            label=gallery.label,
            confidence=gallery.confidence,
        )
        write_whole(self.path / GALLERY, content.getvalue())

    def write_student(
        self,
        module: nn.Module,
        shape: tuple[int, int, int],
        rng: torch.Generator,
        metadata: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Write ``student.safetensors`` and ``student.onnx``; the module is left as it is.

        Returns what belongs under ``onnx`` in the result: see `fedkd.server.report.export.export_onnx`.
        """
        save_student(module, self.path, shape, metadata)
        return export_onnx(module, self.path / "student.onnx", shape, rng)


def load(path: Path) -> Record:
    """Read a finished run's folder.

    Raises:
        DataError: there is no such run, it did not finish, or a file is not what it should be.
    """
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; name the folder that a run left")
    if not (path / RESULT).is_file():
        raise DataError(f"{path} holds no {RESULT}: no run finished there; resume it or run it")
    files = {
        file.name: file.stat().st_size
        for file in sorted(path.iterdir())
        if file.is_file() and file.name != PAGE and not file.name.startswith(".")
    }
    return Record(
        name=path.resolve().name,
        result=_load_result(path / RESULT),
        events=_load_events(path / EVENTS),
        gallery=_load_gallery(path / GALLERY),
        files=files,
    )


def hold(path: Path) -> int:
    """Hold a run's folder until this process ends, however it ends, or closes what is returned.

    Raises:
        SettingsError: another process holds it.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise SettingsError(
            f"another process is running what is in {path}; wait for it, or end it first"
        ) from None
    return folder


def write_whole(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` whole or not at all; what was there stays until then."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what is to stand at ``path``: it does once the block has ended well.

    Raises:
        OSError: it cannot be written, and what was at ``path`` still is.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        _settle(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _settle(path.parent)  # the new name is durable only once the folder that holds it is


def _settle(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk and not on their way there."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _load_result(file: Path) -> Result:
    return read_result(_parse(file.read_bytes(), str(file)), str(file))


def _load_events(file: Path) -> tuple[Event, ...]:
    if not file.exists():
        return ()
    lines = file.read_bytes().splitlines()
    places = [f"{file} line {number}" for number in range(1, len(lines) + 1)]
    return tuple(
        read_event(_parse(line, place), place) for line, place in zip(lines, places, strict=True)
    )


def _load_gallery(file: Path) -> Gallery | None:
    if not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Gallery(
                images=arrays["images"],
                origin=arrays["origin"],
                asked_at=arrays["asked_at"],
                label=arrays["label"],
                confidence=arrays["confidence"],
            )
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} is not a gallery: {' '.join(str(error).split())}") from None


def _parse(text: bytes, where: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from None


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types; a number that is not finite has no name there."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)
