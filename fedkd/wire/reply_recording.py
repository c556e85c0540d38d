"""Recording of a run's replies in a file, and replay of them without any institution.

The file holds wire messages: a Hello for each institution, then for each query its digest, the
Hello of those that joined since the last, the Answers, who was missing and why, and a note of the
caller. Given the same replies, every engine trains the same student.

A checksum ends each query, so that a file whose process or machine died while it was written is
valid up to the last whole query.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fedkd.errors import DataError
from fedkd.protocol import Answers, Card, Reply, Request, digest
from fedkd.wire.codec import decode_from_institution, encode
from fedkd.wire.messages import VERSION, Answer, Hello

FRAME_LENGTH = struct.Struct("<Q")
"""Length of a frame, in bytes."""
FILE_HEADER = b"fedkd replies 2"
"""First frame of the file."""
CHECKSUM_BYTES = 16
"""Length of the checksum of a query."""
JOINED = b""
"""Instead of a name: the next frame is the Hello of an institution that joined."""

MissingInstitutions = Mapping[str, tuple[str, str]]
"""Institutions that did not answer: name -> kind of event, and reason."""


@dataclass(frozen=True, eq=False)
class QueryOutcome:
    """The outcome of one query."""

    answers: Answers
    missing: MissingInstitutions
    joined: tuple[Card, ...]
    """Cards of those that joined with this query."""


class ReplyRecorder:
    """Records the replies of a run, one whole query at a time.

    Args:
        path: of a new file, or of one to resume.
        durable: whether each query is flushed to the disk (fsync) before `append` returns.
    """

    def __init__(self, path: Path, durable: bool = False) -> None:
        self.path, self._durable = path, durable
        self._file: BinaryIO | None = None
        self._queries = 0
        self.cards: list[Card] = []
        """Of all participants up to the last recorded query."""
        self.note: Mapping[str, Any] = {}
        """The caller's note with the last recorded query."""

    def start(self, cards: Sequence[Card], first: int = 0) -> None:
        """Start a new file with these participants; to be called before the first query.

        Called again it replaces the file, once the new one is complete.

        Args:
            cards: of the institutions.
            first: queries of the run that were answered before the file starts.

        Raises:
            OSError: it cannot be written; the former file is unchanged and still in use.
        """
        part = self.path.with_name(f".{self.path.name}.part")
        file = part.open("wb")
        try:
            _write(file, FILE_HEADER)
            _write(file, _number(first))
            _write(file, _number(len(cards)))
            for card in cards:
                _write(file, encode(Hello(VERSION, "-", card)))
            self._sync(file)
            part.rename(self.path)
            self._sync_folder()
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        self.close()
        self._file, self._queries, self.cards = file, first, list(cards)

    def resume(self) -> "Replay":
        """Resume an existing file after its last whole query; the rest is truncated.

        Returns:
            A replay of it.

        Raises:
            DataError: it cannot be read, or is no recording.
        """
        replay = Replay(self.path)
        self._queries = replay.first
        while replay.skip():
            self._queries += 1
        self.note, self.cards = replay.note, replay.cards
        replay.close()
        self._file = self.path.open("r+b")
        self._file.truncate(replay.valid_bytes)
        self._file.seek(replay.valid_bytes)
        return Replay(self.path)

    @property
    def queries(self) -> int:
        """Queries of the run that were answered so far."""
        return self._queries

    def append(
        self,
        request: Request,
        answers: Answers,
        missing: MissingInstitutions | None = None,
        note: Mapping[str, Any] | None = None,
        joined: Sequence[Card] = (),
    ) -> None:
        """Record one query and its outcome; ``joined``: cards of those that join with it.

        Raises:
            OSError: it cannot be written.
        """
        if self._file is None:
            raise RuntimeError("nothing was started; call start or resume first")
        checksum = _checksum()
        for frame in self._frames(request, joined, answers, missing or {}, note or {}):
            _write(self._file, frame)
            checksum.update(frame)
        _write(self._file, checksum.digest())
        self._sync(self._file)
        self._queries, self.note = self._queries + 1, note or {}
        self.cards.extend(joined)

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._file is not None:
            with suppress(OSError):  # a failed write was reported by append
                self._file.close()

    def _frames(
        self,
        request: Request,
        joined: Sequence[Card],
        answers: Answers,
        missing: MissingInstitutions,
        note: Mapping[str, Any],
    ) -> Iterator[bytes]:
        yield digest(request)
        yield _number(len(joined) + len(answers))
        for card in joined:
            yield JOINED
            yield encode(Hello(VERSION, "-", card))
        for name in sorted(answers):
            yield name.encode()
            yield encode(Answer(self._queries + 1, answers[name]), packed=True)
        yield json.dumps({"lost": dict(missing), "note": dict(note)}).encode()

    def _sync(self, file: BinaryIO) -> None:
        file.flush()
        if self._durable:
            os.fsync(file.fileno())

    def _sync_folder(self) -> None:
        """Flush the folder: a new name is durable only then."""
        if self._durable:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


class Replay:
    """Answers the queries of a run from a recording.

    Raises:
        DataError: the file cannot be read, or is no recording.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; record a run first") from error
        self._path, self._size = path, path.stat().st_size
        self.note: Mapping[str, Any] = {}
        """The caller's note with the last query that was read."""
        try:
            if self._frame() != FILE_HEADER:
                raise EOFError
            self.first = int.from_bytes(self._frame(), "little")
            """Queries of the run that were answered before the file starts."""
            count = int.from_bytes(self._frame(), "little")
            self.cards = [_card(self._frame()) for _ in range(count)]
            """Of all participants so far; those that join are added with their first answers."""
        except EOFError:
            self.close()
            raise DataError(
                f"{path} is no recording of replies, or one of another release; record it again"
            ) from None
        self.valid_bytes = self._file.tell()
        """Bytes of the file up to the end of the last whole query that was read."""

    def answer(self, request: Request) -> Answers:
        """The recorded answers to this request.

        Raises:
            DataError: another query comes next in the recording, or none.
        """
        if (outcome := self.outcome(request)) is None:
            raise DataError(f"{self._path} ends before the run does; record it again")
        return outcome.answers

    def outcome(self, request: Request) -> QueryOutcome | None:
        """The recorded outcome of this request; None after the last whole query.

        Raises:
            DataError: another query comes next in the recording.
        """
        if (frames := self._next_query()) is None:
            return None
        if frames[0] != digest(request):
            raise DataError(
                f"{self._path} was recorded for other queries; replay it with the experiment, "
                "seed and versions that it was recorded with"
            )
        named = list(zip(frames[2:-1:2], frames[3:-1:2], strict=True))
        return QueryOutcome(
            {name.decode(): self._reply(frame) for name, frame in named if name != JOINED},
            {name: (kind, text) for name, (kind, text) in json.loads(frames[-1])["lost"].items()},
            tuple(_card(frame) for name, frame in named if name == JOINED),
        )

    def skip(self) -> bool:
        """Skip one query; False after the last whole one."""
        return self._next_query() is not None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _next_query(self) -> list[bytes] | None:
        """The frames of one query; None unless all are there and the checksum fits."""
        checksum = _checksum()
        try:
            frames = [self._frame(), self._frame()]
            for _ in range(2 * int.from_bytes(frames[1], "little") + 1):
                frames.append(self._frame())
            for frame in frames:
                checksum.update(frame)
            if self._frame() != checksum.digest():
                raise EOFError
        except EOFError:
            self._file.seek(self.valid_bytes)
            return None
        self.valid_bytes = self._file.tell()
        self.note = json.loads(frames[-1])["note"]
        named = zip(frames[2:-1:2], frames[3:-1:2], strict=True)
        self.cards.extend(_card(frame) for name, frame in named if name == JOINED)
        return frames

    def _reply(self, frame: bytes) -> Reply:
        message = decode_from_institution(frame)
        if not isinstance(message, Answer):
            raise DataError(f"{self._path} holds no answer where one belongs; record it again")
        return message.reply

    def _frame(self) -> bytes:
        """The next frame. A torn length may be any number: no more is read than the file holds."""
        head = self._file.read(FRAME_LENGTH.size)
        size = FRAME_LENGTH.unpack(head)[0] if len(head) == FRAME_LENGTH.size else self._size
        if size > self._size - self._file.tell():
            raise EOFError
        return self._file.read(size)


def _write(file: BinaryIO, frame: bytes) -> None:
    file.write(FRAME_LENGTH.pack(len(frame)))
    file.write(frame)


def _card(frame: bytes) -> Card:
    message = decode_from_institution(frame)
    if not isinstance(message, Hello):
        raise EOFError
    return message.card


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _checksum() -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=CHECKSUM_BYTES)
