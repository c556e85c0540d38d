"""Replies of a run, kept in a file and read back. Knows no loop and no institution.

The file holds what would travel: a Hello for each institution, then for each question its digest
and the Answers to it, among them the Hello of whoever joined since the last. Given the same
replies, every engine makes the same student; a replay asks nobody.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from fedkd.errors import DataError
from fedkd.signals import Answers, Card, Reply, Request, digest
from fedkd.wire.codec import decode_from_institution, encode
from fedkd.wire.messages import VERSION, Answer, Hello

FRAME = struct.Struct("<Q")
"""Length of what follows, in bytes."""


class Recorder:
    """Writes a run's replies down, whole questions at a time.

    Args:
        path: of a file that is not there yet.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._questions = 0

    def begin(self, cards: tuple[Card, ...]) -> None:
        """Who takes part; to be called once, before the first question."""
        _write(self._file, len(cards).to_bytes(4, "little"))
        for card in cards:
            _write(self._file, encode(Hello(VERSION, "-", card)))

    def keep(self, request: Request, answers: Answers, joined: Sequence[Card] = ()) -> None:
        """One question and what was answered; ``joined``: who takes part from here on."""
        self._questions += 1
        _write(self._file, digest(request))
        _write(self._file, (len(joined) + len(answers)).to_bytes(4, "little"))
        for card in joined:
            _write(self._file, card.name.encode())
            _write(self._file, encode(Hello(VERSION, "-", card)))
        for name in sorted(answers):
            _write(self._file, name.encode())
            _write(self._file, encode(Answer(self._questions, answers[name])))
        self._file.flush()

    def close(self) -> None:
        """The run is over; closing twice does no harm."""
        self._file.close()


class Replay:
    """Answers a run's questions out of a recording.

    Raises:
        DataError: the file cannot be read, or is none of ours.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._frames = _read(path.open("rb"), path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; record a run first") from error
        self._path = path
        self.cards = [self._card() for _ in range(self._number())]
        """Of whoever takes part by now; those who join are added with their first answers."""

    def answer(self, request: Request) -> Answers:
        """What was answered when this was asked.

        Raises:
            DataError: another question came next in the recorded run.
        """
        if self._next() != digest(request):
            raise DataError(
                f"{self._path} was recorded for other questions; replay it with the experiment, "
                "seed and versions that it was recorded with"
            )
        answers: dict[str, Reply] = {}
        for _ in range(self._number()):
            name = self._next().decode()
            match decode_from_institution(self._next()):
                case Hello(card=card):
                    self.cards.append(card)
                case Answer(reply=reply):
                    answers[name] = reply
                case _:
                    raise DataError(
                        f"{self._path} holds no answer where one belongs; record it again"
                    )
        return answers

    def _card(self) -> Card:
        message = decode_from_institution(self._next())
        if not isinstance(message, Hello):
            raise DataError(f"{self._path} is no recording of replies; name one")
        return message.card

    def _number(self) -> int:
        return int.from_bytes(self._next(), "little")

    def _next(self) -> bytes:
        try:
            return next(self._frames)
        except StopIteration:
            raise DataError(f"{self._path} ends before the run does; record it again") from None


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(FRAME.pack(len(content)))
    file.write(content)


def _read(file: BinaryIO, path: Path) -> Iterator[bytes]:
    with file:
        while head := file.read(FRAME.size):
            size = FRAME.unpack(head)[0] if len(head) == FRAME.size else -1
            left = path.stat().st_size - file.tell()
            if not 0 <= size <= left:
                raise DataError(f"{path} is cut short or is no recording; record it again")
            yield file.read(size)
