"""Replies of a run, kept in a file and read back. Knows no loop and no institution.

The file holds what would travel: a Hello for each institution, then for each question its digest,
the Hello of whoever joined since the last, the Answers, who was missing and why, and a note of
whoever keeps it. Given the same replies, every engine makes the same student; a replay asks nobody.

A question is sealed by a digest of all that stands in it, so that a file that was being written
when its process died, or its machine, is good up to the last whole question.
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
"""Length of what follows, in bytes."""
FILE_HEADER = b"fedkd replies 2"
"""What the file begins with."""
CHECKSUM_BYTES = 16
"""Bytes of a question's seal."""
JOINED = b""
"""In the place of a name: what follows is the Hello of whoever joined."""

MissingInstitutions = Mapping[str, tuple[str, str]]
"""Who did not answer: name -> kind of event, and why."""


@dataclass(frozen=True, eq=False)
class QueryOutcome:
    """What came of one question."""

    answers: Answers
    missing: MissingInstitutions
    joined: tuple[Card, ...]
    """Who takes part since this question."""


class ReplyRecorder:
    """Writes a run's replies down, whole questions at a time.

    Args:
        path: of a file that is not there yet, or of one to go on with.
        durable: whether each question is on the disk, and not on its way there, once it is kept.
    """

    def __init__(self, path: Path, durable: bool = False) -> None:
        self.path, self._durable = path, durable
        self._file: BinaryIO | None = None
        self._questions = 0
        self.cards: list[Card] = []
        """Of everybody who took part by the last question that was kept."""
        self.note: Mapping[str, Any] = {}
        """Of the last question that was kept, whatever whoever kept it wanted to know later."""

    def start(self, cards: Sequence[Card], first: int = 0) -> None:
        """Who takes part; to be called before the first question.

        Called again it begins anew, and what was kept until then goes, once the new file is there.

        Args:
            cards: of the institutions.
            first: questions of the run that were answered before the file begins.

        Raises:
            OSError: it cannot be written; what was there is still there, and is gone on with.
        """
        part = self.path.with_name(f".{self.path.name}.part")
        file = part.open("wb")
        try:
            _write(file, FILE_HEADER)
            _write(file, _number(first))
            _write(file, _number(len(cards)))
            for card in cards:
                _write(file, encode(Hello(VERSION, "-", card)))
            self._settle(file)
            part.rename(self.path)
            self._settle_name()
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        self.close()
        self._file, self._questions, self.cards = file, first, list(cards)

    def resume(self) -> "Replay":
        """Go on with a file that is there, after its last whole question; the rest is cut off.

        Returns:
            What it holds.

        Raises:
            DataError: it cannot be read, or is none of ours.
        """
        replay = Replay(self.path)
        self._questions = replay.first
        while replay.skip():
            self._questions += 1
        self.note, self.cards = replay.note, replay.cards
        replay.close()
        self._file = self.path.open("r+b")
        self._file.truncate(replay.valid_bytes)
        self._file.seek(replay.valid_bytes)
        return Replay(self.path)

    @property
    def questions(self) -> int:
        """Of the run that were answered so far."""
        return self._questions

    def append(
        self,
        request: Request,
        answers: Answers,
        lost: MissingInstitutions | None = None,
        note: Mapping[str, Any] | None = None,
        joined: Sequence[Card] = (),
    ) -> None:
        """One question and what came of it; ``joined``: who takes part from here on.

        Raises:
            OSError: it cannot be written.
        """
        if self._file is None:
            raise RuntimeError("nothing was begun; call begin or go_on first")
        seal = _seal()
        for content in self._frames(request, joined, answers, lost or {}, note or {}):
            _write(self._file, content)
            seal.update(content)
        _write(self._file, seal.digest())
        self._settle(self._file)
        self._questions, self.note = self._questions + 1, note or {}
        self.cards.extend(joined)

    def close(self) -> None:
        """The run is over; closing twice does no harm."""
        if self._file is not None:
            with suppress(OSError):  # what could not be written was told when it was kept
                self._file.close()

    def _frames(
        self,
        request: Request,
        joined: Sequence[Card],
        answers: Answers,
        lost: MissingInstitutions,
        note: Mapping[str, Any],
    ) -> Iterator[bytes]:
        yield digest(request)
        yield _number(len(joined) + len(answers))
        for card in joined:
            yield JOINED
            yield encode(Hello(VERSION, "-", card))
        for name in sorted(answers):
            yield name.encode()
            yield encode(Answer(self._questions + 1, answers[name]), packed=True)
        yield json.dumps({"lost": dict(lost), "note": dict(note)}).encode()

    def _settle(self, file: BinaryIO) -> None:
        file.flush()
        if self._durable:
            os.fsync(file.fileno())

    def _settle_name(self) -> None:
        """A new name is durable only once the folder that holds it is."""
        if self._durable:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


class Replay:
    """Answers a run's questions out of a recording.

    Raises:
        DataError: the file cannot be read, or is none of ours.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; record a run first") from error
        self._path, self._size = path, path.stat().st_size
        self.note: Mapping[str, Any] = {}
        """Of the last question that was read."""
        try:
            if self._frame() != FILE_HEADER:
                raise EOFError
            self.first = int.from_bytes(self._frame(), "little")
            """Questions of the run that were answered before the file begins."""
            count = int.from_bytes(self._frame(), "little")
            self.cards = [_card(self._frame()) for _ in range(count)]
            """Of whoever takes part by now; those who join are added with their first answers."""
        except EOFError:
            self.close()
            raise DataError(
                f"{path} is no recording of replies, or one of another release; record it again"
            ) from None
        self.valid_bytes = self._file.tell()
        """Bytes of the file up to the end of the last whole question that was read."""

    def answer(self, request: Request) -> Answers:
        """What was answered when this was asked.

        Raises:
            DataError: another question came next in the recorded run, or none.
        """
        if (heard := self.outcome(request)) is None:
            raise DataError(f"{self._path} ends before the run does; record it again")
        return heard.answers

    def outcome(self, request: Request) -> QueryOutcome | None:
        """What came of this question; None where no more whole ones are there.

        Raises:
            DataError: another question came next in the recorded run.
        """
        if (frames := self._question()) is None:
            return None
        if frames[0] != digest(request):
            raise DataError(
                f"{self._path} was recorded for other questions; replay it with the experiment, "
                "seed and versions that it was recorded with"
            )
        said = list(zip(frames[2:-1:2], frames[3:-1:2], strict=True))
        return QueryOutcome(
            {name.decode(): self._reply(content) for name, content in said if name != JOINED},
            {name: (kind, text) for name, (kind, text) in json.loads(frames[-1])["lost"].items()},
            tuple(_card(content) for name, content in said if name == JOINED),
        )

    def skip(self) -> bool:
        """Pass over one question, whatever it was; False where no more whole ones are there."""
        return self._question() is not None

    def close(self) -> None:
        """No more is read."""
        self._file.close()

    def _question(self) -> list[bytes] | None:
        """The frames of one question, if all are there as they were written."""
        seal = _seal()
        try:
            frames = [self._frame(), self._frame()]
            for _ in range(2 * int.from_bytes(frames[1], "little") + 1):
                frames.append(self._frame())
            for content in frames:
                seal.update(content)
            if self._frame() != seal.digest():
                raise EOFError
        except EOFError:
            self._file.seek(self.valid_bytes)
            return None
        self.valid_bytes = self._file.tell()
        self.note = json.loads(frames[-1])["note"]
        said = zip(frames[2:-1:2], frames[3:-1:2], strict=True)
        self.cards.extend(_card(content) for name, content in said if name == JOINED)
        return frames

    def _reply(self, content: bytes) -> Reply:
        message = decode_from_institution(content)
        if not isinstance(message, Answer):
            raise DataError(f"{self._path} holds no answer where one belongs; record it again")
        return message.reply

    def _frame(self) -> bytes:
        """What was written next. A torn length may be anything: no more is read than is there."""
        head = self._file.read(FRAME_LENGTH.size)
        size = FRAME_LENGTH.unpack(head)[0] if len(head) == FRAME_LENGTH.size else self._size
        if size > self._size - self._file.tell():
            raise EOFError
        return self._file.read(size)


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(FRAME_LENGTH.pack(len(content)))
    file.write(content)


def _card(content: bytes) -> Card:
    message = decode_from_institution(content)
    if not isinstance(message, Hello):
        raise EOFError
    return message.card


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _seal() -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=CHECKSUM_BYTES)
