"""The folder of a run: create, lock, append events, write results atomically, load.

    result.json          the result; written last, so it marks a finished run
    events.jsonl         the events of the run, one JSON object a line
    gallery.npz          synthetic images
    rows.npz             synthetic rows of a table, and what the student makes of its columns
    predictions.npz      predictions on test data, or how well confidence is calibrated there, or
                         relations of embeddings
    gallery_embeddings.npz  public samples and their embeddings, of an asymmetric student
    student.safetensors  the last student, and student.onnx where the extra is installed
    experiment.json      the manifest, written first, and checkpoint/ while the run goes on: see
                         `fedkd.server.run.checkpoint`
    report.html          the page, made from the files above by `fedkd.server.report.page`
    README.md            the student's model card, likewise; one that is there is left alone

Folders and files are their owner's alone, whatever the umask. Files that the page needs are written
atomically, except for the events, which are appended.
"""

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedkd.errors import DataError, SettingsError
from fedkd.process.private_files import make_private, make_private_folder, private_opener
from fedkd.server.report.records.event_schema import Event, current_kind, parse_event
from fedkd.server.report.records.result_schema import Result, parse_result
from fedkd.server.report.records.run_arrays import Arrays, encode_arrays, load_arrays
from fedkd.server.report.records.run_record import GALLERY_ARRAYS, Gallery, RunRecord
from fedkd.server.report.records.student_export import export_onnx, save_student

RESULT = "result.json"
EVENTS = "events.jsonl"
GALLERY = "gallery.npz"
ROWS = "rows.npz"
PREDICTIONS = "predictions.npz"
PAGE = "report.html"


def check_unused(path: Path) -> None:
    """Check that a run may have this folder: it is empty, or not there yet.

    Raises:
        SettingsError: it is not empty, or cannot be read.
    """
    try:
        # A run that was killed at its start may have left a hidden temporary file.
        taken = path.exists() and any(not file.name.startswith(".") for file in path.iterdir())
    except OSError as error:
        raise _unusable(path, error) from None
    if taken:
        raise SettingsError(f"the run folder {path} is not empty; name another one or empty it")


def _unusable(path: Path, error: OSError) -> SettingsError:
    return SettingsError(f"cannot make the run folder {path}: {error.strerror}; name another one")


class RunFolder:
    """The folder of a run, open for writing in one process."""

    def __init__(self, path: Path, events: int, made: Sequence[Path] = ()) -> None:
        """Use `create` or `resume`."""
        self.path, self._made = path, made
        self.events = events
        """Number of events written so far; a checkpoint saves it for `resume`."""

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Create the folder.

        Raises:
            SettingsError: it exists and is not empty, or cannot be created.
        """
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            make_private_folder(path)
        except OSError as error:
            raise _unusable(path, error) from None
        check_unused(path)
        return cls(path, 0, made)

    @classmethod
    def resume(cls, path: Path, events: int) -> "RunFolder":
        """Reopen the folder of an interrupted run, as it was after ``events`` events.

        Later events are dropped, since the resumed run writes them again.

        Raises:
            DataError: there are fewer events in the file than the checkpoint counted.
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
            write_atomic(file, b"".join(whole[:events]))
        return cls(path, events)

    def remove_if_empty(self) -> None:
        """Remove the folder that `create` made, and those above it, as far as they are empty."""
        with suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def append_event(self, event: Mapping[str, Any]) -> None:
        """Validate and append one event with its time; numbers that are not finite become null.

        Raises:
            DataError: the event does not fit the schema, or cannot be written.
        """
        kind, now = current_kind(str(event.get("kind"))), round(time.time(), 3)
        plain = _plain({**event, "kind": kind, "time": now})
        parse_event(plain, f"event {self.events + 1}")
        try:
            with open(self.path / EVENTS, "a", encoding="utf-8", opener=private_opener) as file:
                file.write(json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n")
        except OSError as error:
            raise DataError(
                f"cannot write {self.path / EVENTS}: {error.strerror}; make room there"
            ) from error
        self.events += 1

    def stored_events(self) -> list[dict[str, Any]]:
        """All events so far, as they were written."""
        file = self.path / EVENTS
        lines = file.read_bytes().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def flush_events(self) -> int:
        """Number of events so far, which are on the disk once this returns."""
        if self.events:
            _fsync(self.path / EVENTS)
        return self.events

    def write_result(self, result: Mapping[str, Any]) -> Result:
        """Write ``result.json`` atomically, then validate it.

        It is on the disk even if it is not valid, so that no long run is lost to a missing key.

        Raises:
            DataError: it was written, and does not fit the schema (`Result`).
        """
        plain = _plain(result)
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(self.path / RESULT, (text + "\n").encode())
        return parse_result(plain, RESULT)

    def write_gallery(self, gallery: Gallery) -> None:
        """Write the synthetic images atomically."""
        self.write_arrays(GALLERY, vars(gallery))

    def write_arrays(self, name: str, arrays: Arrays) -> None:
        """Write arrays to the file ``name`` atomically."""
        write_atomic(self.path / name, encode_arrays(arrays))

    def write_student(
        self,
        module: nn.Module,
        shape: tuple[int, int, int],
        rng: torch.Generator,
        metadata: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Write ``student.safetensors`` and ``student.onnx``; the module is not changed.

        Returns the field ``onnx`` of the result, see
        `fedkd.server.report.records.student_export.export_onnx`.
        """
        save_student(module, self.path, shape, metadata)
        return export_onnx(module, self.path / "student.onnx", shape, rng, metadata)


def load_run(path: Path) -> RunRecord:
    """Load the folder of a finished run.

    Raises:
        DataError: there is no such run, it did not finish, or a file is malformed.
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
    return RunRecord(
        name=path.resolve().name,
        result=load_result(path / RESULT),
        events=_load_events(path / EVENTS),
        gallery=_load_gallery(path / GALLERY),
        rows=load_arrays(path / ROWS),
        predictions=load_arrays(path / PREDICTIONS),
        files=files,
    )


def lock_folder(path: Path) -> int:
    """Lock a run's folder until this process ends, or closes the returned descriptor.

    Raises:
        SettingsError: another process holds the lock.
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


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically: the previous content stays until the new one is on the disk."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path that replaces ``path`` when the block ends without an error.

    Raises:
        OSError: it cannot be written, and ``path`` is as before.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        make_private(temporary)
        _fsync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync(path.parent)  # the new name is durable only once its folder is


def _fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def load_result(file: Path) -> Result:
    """The result in a file; `DataError` where it is malformed."""
    return parse_result(_parse(file.read_bytes(), str(file)), str(file))


def _load_events(file: Path) -> tuple[Event, ...]:
    if not file.exists():
        return ()
    lines = file.read_bytes().splitlines()
    places = [f"{file} line {number}" for number in range(1, len(lines) + 1)]
    return tuple(
        parse_event(_parse(line, place), place) for line, place in zip(lines, places, strict=True)
    )


def _load_gallery(file: Path) -> Gallery | None:
    arrays = load_arrays(file, "gallery")
    if arrays is None:
        return None
    try:
        return Gallery(**{name: arrays[name] for name in GALLERY_ARRAYS})
    except KeyError as error:
        raise DataError(f"{file} is not a gallery: no array {error}") from None


def _parse(text: bytes, where: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from None


def _plain(value: Any) -> Any:
    """``value`` in JSON types; numbers that are not finite become None."""
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
