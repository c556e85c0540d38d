"""Checkpoint of a run: a journal of all replies, and the saved state; begin, save, resume.

    experiment.json               the manifest
    checkpoint/state.safetensors  the state of the run after some number of questions
    checkpoint/replies.bin        the journal since then; replies.bin and all of it, if recorded
    checkpoint/bans.jsonl         banned institutions, see `fedkd.server.hub.bans`
    checkpoint/institutions/      ledgers of simulated institutions

A reply is on the disk before the loop receives it. An interrupted run loads its state, replays the
journal since then, and goes on asking. Nothing is asked twice, except for a question whose replies
were still on their way, which is sent again with the same content.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedkd.core.checkpoint_state import State, read, write
from fedkd.errors import DataError, SettingsError
from fedkd.experiment import Experiment
from fedkd.process.private_files import make_private_folder
from fedkd.protocol import Answers, Card, Request
from fedkd.server.hub.bans import Bans, Exclusion
from fedkd.server.report.records.event_schema import current_kind
from fedkd.server.report.records.run_folder import (
    RESULT,
    RunFolder,
    atomic_path,
    lock_folder,
    write_atomic,
)
from fedkd.server.run.manifest import MANIFEST, Manifest, read_manifest, versions
from fedkd.server.run.reply_journal_recovery import open_journal
from fedkd.wire import MissingInstitutions, QueryOutcome, Replay, ReplyRecorder

FOLDER = "checkpoint"
STATE = "state.safetensors"
REPLIES = "replies.bin"
BANS = "bans.jsonl"
OLD_BANS = "struck"
"""Name of `BANS` in folders of earlier releases."""
LEDGERS = "institutions"
MIN_SPACING = 20
"""Least time between two states, in units of the time that saving takes."""
Counts = Mapping[str, Mapping[str, int]]
"""Name of an institution -> name of a counter -> value."""


class Checkpoint:
    """The checkpoint of one run, open in one process. Use `begin` or `resume`."""

    def __init__(self, folder: RunFolder, manifest: Manifest, lock: int) -> None:
        self.folder, self.manifest = folder, manifest
        self.state: State | None = None
        """The last saved state, if the run was resumed."""
        self.notes: Mapping[str, Any] = {}
        """What its driver saved with the state."""
        self.cards: list[Card] = []
        """Of the institutions that take part; none before the first question."""
        self.current_counts: Callable[[], Counts] = dict
        """Returns what the engine has counted since this process began."""
        self.previous_counts: Counts = {}
        """What was counted before the run was interrupted."""
        self.bans = Bans(folder.path / FOLDER / BANS)
        """Of the whole run."""
        self._lock, self._previous_seconds, self._started = lock, 0.0, time.monotonic()
        self._saved_at, self._save_seconds, self._asking = self._started, 0.0, True
        path = folder.path
        self._state_file = path / FOLDER / STATE
        self._recorder = ReplyRecorder(
            path / REPLIES if manifest.record else path / FOLDER / REPLIES, durable=True
        )
        self._replay: Replay | None = None
        self._left_to_replay = 0  # questions in the journal that were not replayed yet

    @classmethod
    def begin(
        cls, path: Path, experiment: Experiment, engine: str, every: float, record: bool = False
    ) -> "Checkpoint":
        """The checkpoint of a new run.

        Args:
            path: of its folder, which is empty or does not exist.
            experiment: resolved.
            engine: name of the engine that drives it.
            every: seconds between saved states, 0 for none.
            record: keep all replies when the run is over.

        Raises:
            SettingsError: the folder is not empty, or cannot be made.
        """
        folder = RunFolder.create(path)
        manifest = Manifest(
            experiment=experiment, engine=engine, every=every, record=record, versions=versions()
        )
        return cls(folder, manifest, lock_folder(path))._write_manifest()

    @classmethod
    def resume(cls, path: Path, *engines: str, without: Sequence[str] = ()) -> "Checkpoint":
        """The checkpoint of an interrupted run, as it was when its state was last saved.

        Args:
            path: of its folder.
            engines: by which the run may have been begun; none: any.
            without: names of institutions that are left out from here on, see
                `fedkd.server.run.reply_journal_recovery`; the hub refuses them.

        Raises:
            SettingsError: there is none, it is finished, it is another engine's, another process
                uses it, or an institution cannot be left out.
            DataError: its files cannot be read, are of another version, or nothing can be
                written there.
        """
        if (path / RESULT).exists():
            raise SettingsError(
                f"the run in {path} is finished; `fedkd report {path}` makes its page again"
            )
        manifest = read_manifest(path)
        if engines and manifest.engine not in engines:
            raise SettingsError(
                f"the run in {path} was begun by engine {manifest.engine!r}, this one resumes "
                f"{' and '.join(engines)}; fedkd-server goes on with a hub's, fedkd with the others"
            )
        lock = lock_folder(path)
        try:
            left_out = tuple(sorted({*manifest.without, *without}))
            again = manifest.model_copy(
                update={"resumed": manifest.resumed + 1, "without": left_out}
            )
            for torn in (path / FOLDER).glob(".*"):
                torn.unlink()
            if (path / FOLDER / OLD_BANS).exists():
                os.replace(path / FOLDER / OLD_BANS, path / FOLDER / BANS)
            state = read(file) if (file := path / FOLDER / STATE).exists() else None
            notes = state.numbers["notes"] if state is not None else {}
            found = cls(RunFolder.resume(path, notes.get("events", 0)), again, lock)
            found.state, found.notes = state, _with_current_names(notes)
            found._open_journal()
            # All of them, and before the manifest: a kill in between lets nobody in again.
            make_private_folder(path / FOLDER)
            for name in left_out:
                found.bans.add(name, Exclusion("the operator left it out (--without)"))
            found._write_manifest()
            return found
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError):
                raise DataError(f"cannot write in {path}: {error.strerror}; make room") from error
            raise

    @property
    def ledgers(self) -> Path:
        """Folder with the ledgers of simulated institutions."""
        return self.folder.path.resolve() / FOLDER / LEDGERS

    @property
    def questions(self) -> int:
        """Number of questions in the journal."""
        return self._recorder.queries

    @property
    def seconds(self) -> float:
        """That the run took so far, before interruptions too."""
        return self._previous_seconds + time.monotonic() - self._started

    def total_counts(self) -> dict[str, dict[str, int]]:
        """What was counted of each institution since the run began, before interruptions too."""
        now = self.current_counts()
        return {
            name: {
                what: self.previous_counts.get(name, {}).get(what, 0)
                + now.get(name, {}).get(what, 0)
                for what in {**self.previous_counts.get(name, {}), **now.get(name, {})}
            }
            for name in {**self.previous_counts, **now}
        }

    @property
    def known_cards(self) -> tuple[Card, ...]:
        """Of all institutions in the journal."""
        return tuple(self._recorder.cards)

    def check_participants(self, cards: list[Card]) -> list[Card]:
        """The participants of a resumed run, or ``cards`` for a new one.

        Raises:
            DataError: the card of an institution differs from the one that it had before.
        """
        before = {card.name: card for card in self.cards}
        for card in cards:
            if card != before.get(card.name, card):
                raise DataError(
                    f"{card.name} is not as it was when the run in {self.folder.path} began; "
                    "bring it back as it was, or start the run again"
                )
        if self.manifest.without:
            cards[:] = self.taking_part(cards)  # the list is shared with whoever adds joiners
        return self.cards or cards

    def taking_part(self, cards: Sequence[Card]) -> list[Card]:
        """Those of ``cards`` whose institutions were not left out of the run."""
        return [card for card in cards if card.name not in self.manifest.without]

    def record_participants(self, cards: list[Card]) -> None:
        """Write the cards of the participants, before the first question.

        Raises:
            DataError: they cannot be written.
        """
        if not self.cards:
            self.cards = cards
            try:
                self._recorder.start(cards)
            except OSError as error:
                raise self._write_error(error) from error

    def replayed(self, request: Request) -> QueryOutcome | None:
        """The outcome of this question in the journal; None once all of that was replayed.

        Raises:
            DataError: the journal has another question.
        """
        if self._replay is None or not self._left_to_replay:
            return None
        self._left_to_replay -= 1
        outcome = self._replay.outcome(request)
        if outcome is None:
            return None
        missing = {n: (current_kind(kind), why) for n, (kind, why) in outcome.missing.items()}
        return replace(outcome, missing=missing)

    def append(
        self,
        request: Request,
        answers: Answers,
        lost: MissingInstitutions,
        joined: Sequence[Card] = (),
    ) -> None:
        """Append the outcome of a question to the journal, and the cards of late joiners.

        Raises:
            DataError: it cannot be written.
        """
        try:
            self._recorder.append(request, answers, lost, self._running_totals(), joined)
        except OSError as error:
            raise self._write_error(error) from error

    def save_if_due(
        self, asking: bool, take: Callable[[], State], notes: Mapping[str, Any]
    ) -> None:
        """Save the state of the run, if that is due.

        Args:
            asking: whether there are questions to come; saves when this becomes False.
            take: returns the state.
            notes: of the driver, JSON; available after a resume.

        Raises:
            OSError: it cannot be written; the previous one is intact.
        """
        if not self.manifest.every or self._left_to_replay:
            return
        apart = max(self.manifest.every, MIN_SPACING * self._save_seconds)
        started = time.monotonic()
        if started - self._saved_at < apart and asking == self._asking:
            return
        self._saved_at, self._asking = started, asking
        try:
            self._save(take(), {**notes, "asking": asking})
        finally:
            self._save_seconds = time.monotonic() - started

    def finish(self) -> None:
        """Delete the checkpoint of a run whose result was written."""
        self.close()
        shutil.rmtree(self.folder.path / FOLDER, ignore_errors=True)

    def discard(self) -> None:
        """Delete the checkpoint of a run that did not begin to ask, and its folder if empty."""
        self.close()
        if not self.cards:
            shutil.rmtree(self.folder.path / FOLDER, ignore_errors=True)
            (self.folder.path / MANIFEST).unlink(missing_ok=True)
            self.folder.remove_if_empty()

    def close(self) -> None:
        """Unlock the folder; closing twice does no harm."""
        self._recorder.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _save(self, state: State, notes: Mapping[str, Any]) -> None:
        own = {
            "events": self.folder.flush_events(),
            "questions": self.questions,
            **self._running_totals(),
        }
        whole = State(state.tensors, {**state.numbers, "notes": {**notes, **own}})
        with atomic_path(self._state_file) as file:
            write(whole, file)
        if not self.manifest.record:  # the state contains the effect of all earlier answers
            self._recorder.start(self.cards, self.questions)

    def _open_journal(self) -> None:
        """Open the journal at the first question after the state."""
        if not self._recorder.path.exists() and self.state is None:
            return  # no question was asked yet
        start = None if self.state is None else self.notes.get("questions", 0)
        self._replay = open_journal(
            self._recorder, start, self.manifest.without, recorded=self.manifest.record
        )
        if self._replay is None:
            return
        self.cards = self._replay.cards  # grows by those who join while it is replayed
        self._left_to_replay = self._recorder.queries - (start or 0)
        self._asking = self.notes.get("asking", True)
        totals = max(self._recorder.note, self.notes, key=lambda of: of.get("seconds", 0.0))
        self._previous_seconds, self.previous_counts = (
            totals.get("seconds", 0.0),
            totals.get("counted", {}),
        )

    def _running_totals(self) -> dict[str, Any]:
        """Time and counters, which a replay does not restore."""
        return {"seconds": self.seconds, "counted": self.total_counts()}

    def _write_manifest(self) -> "Checkpoint":
        text = self.manifest.model_dump_json(indent=2)
        write_atomic(self.folder.path / MANIFEST, (text + "\n").encode())
        make_private_folder(self.folder.path / FOLDER)
        return self

    def _write_error(self, error: OSError) -> DataError:
        return DataError(
            f"cannot write {self._recorder.path}: {error.strerror}; make room there and resume"
        )


def _with_current_names(notes: Mapping[str, Any]) -> Mapping[str, Any]:
    """The notes of a state, with names of earlier releases replaced."""
    own = notes.get("own", {})
    if "struck" not in own or "banned" in own:
        return notes
    return {**notes, "own": {**own, "banned": own["struck"]}}
