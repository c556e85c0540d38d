"""Recording of a run's replies in a file: one whole query at a time, durable where asked.

The file holds wire messages: a Hello for each institution, then for each query its digest, the
Hello of those that joined since the last, the Answers, who was missing and why, and a note of the
caller. Given the same replies, every engine trains the same student. `fedkd.wire.reply_replay`
reads it.

A checksum ends each query, so that a file whose process or machine died while it was written is
valid up to the last whole query.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from fedkd.protocol import Answers, Card, Request, digest
from fedkd.wire.codec import encode
from fedkd.wire.reply_replay import (
    FILE_HEADER,
    FRAME_LENGTH,
    JOINED,
    MissingInstitutions,
    Replay,
    new_checksum,
)
from fedkd.wire.session_messages import VERSION, Answer, Hello


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
            OSError: it cannot be written; the former file is unchanged and still in use. Or only
                its folder cannot be flushed; then the new one is in use.
        """
        part = self.path.with_name(f".{self.path.name}.part")
        part.unlink(missing_ok=True)
        # Answers are for the coordinator alone, whatever the umask.
        file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        try:
            _write(file, FILE_HEADER)
            _write(file, _number(first))
            _write(file, _number(len(cards)))
            for card in cards:
                _write(file, encode(Hello(VERSION, "-", card)))
            self._sync(file)
            part.rename(self.path)
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        self.close()
        self._file, self._queries, self.cards = file, first, list(cards)
        # After the switch: should this fail, the former file has no name any more.
        self._sync_folder()

    def resume(self, without: Collection[str] = (), since: int = 0) -> "Replay":
        """Resume an existing file after its last whole query; the rest is truncated.

        Args:
            without: names of institutions; the first query in which one of them joined or answered
                is truncated too, with all that follow.
            since: queries of the run before this one stay, whoever took part.

        Returns:
            A replay of it.

        Raises:
            DataError: it cannot be read, or is no recording.
        """
        replay = Replay(self.path)
        self._queries, end = replay.first, replay.valid_bytes
        self.note, self.cards = {}, list(replay.cards)
        while replay.skip():
            if self._queries >= since and not replay.names.isdisjoint(without):
                break
            self._queries, end = self._queries + 1, replay.valid_bytes
            self.note, self.cards = replay.note, list(replay.cards)
        replay.close()
        self._file = self.path.open("r+b")
        self._file.truncate(end)
        self._file.seek(end)
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
        checksum = new_checksum()
        for frame in self._frames(request, joined, answers, missing or {}, note or {}):
            _write(self._file, frame)
            checksum.update(frame)
        _write(self._file, checksum.digest())
        self._sync(self._file)
        self._queries, self.note = self._queries + 1, note or {}
        self.cards.extend(joined)

    def reset(self) -> None:
        """Forget what was recorded, before another `start`."""
        self._file, self._queries, self.cards, self.note = None, 0, [], {}

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


def _write(file: BinaryIO, frame: bytes) -> None:
    file.write(FRAME_LENGTH.pack(len(frame)))
    file.write(frame)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")
