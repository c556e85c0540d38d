"""Replay of a recording: answers the queries of a run from a file, without any institution.

`fedkd.wire.reply_recording` writes the file and says what it holds.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.errors import DataError
from fedkd.protocol import Answers, Card, Reply, Request, digest
from fedkd.wire.cards import decode_stored_card
from fedkd.wire.codec import decode_from_institution
from fedkd.wire.session_messages import Answer

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
        self.names: frozenset[str] = frozenset()
        """Of those that joined with the last query that was read, or answered it."""
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
        checksum = new_checksum()
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
        named = list(zip(frames[2:-1:2], frames[3:-1:2], strict=True))
        try:
            joined = [_card(frame) for name, frame in named if name == JOINED]
        except EOFError:
            raise DataError(f"{self._path} holds a card that is none; record it again") from None
        self.cards.extend(joined)
        answered = {name.decode() for name, _ in named if name != JOINED}
        self.names = frozenset(answered | {card.name for card in joined})
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


def _card(frame: bytes) -> Card:
    if (card := decode_stored_card(frame)) is None:
        raise EOFError
    return card


def new_checksum() -> "hashlib.blake2b":
    """The checksum of a query, to be updated with its frames."""
    return hashlib.blake2b(digest_size=CHECKSUM_BYTES)
