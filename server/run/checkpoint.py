"""A run's way back: every reply in a journal, and now and then all of its state. Knows no loop.

    experiment.json               what is run, how, and how often it was taken up again
    checkpoint/state.safetensors  what the run had come to after so many questions
    checkpoint/replies.bin        what was answered since; replies.bin and all of it, if recorded
    checkpoint/struck             who may not come back, see `fedkd.server.hub.bans`
    checkpoint/institutions/      books of simulated institutions; others keep theirs at home

A reply is on the disk before the loop hears it. A run that is cut short, at whatever moment, loads
its state, hears from the journal what was answered since, and then asks on: nothing is asked
twice but a question whose replies were still on their way, and that one in the same words.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedkd.core.state import State, read, write
from fedkd.errors import DataError, FedkdError, SettingsError
from fedkd.experiment.experiment import Experiment
from fedkd.protocol.signals import Answers, Card, Request
from fedkd.server.hub.bans import Strikes
from fedkd.server.report.run_folder import PAGE, RESULT, RunFolder, hold, replacing, write_whole
from fedkd.server.run.manifest import MANIFEST, Manifest, read_manifest, versions
from fedkd.wire.recording import Heard, Lost, Recorder, Replay

FOLDER = "checkpoint"
STATE = "state.safetensors"
REPLIES = "replies.bin"
STRUCK = "struck"
BOOKS = "institutions"
LEAST_APART = 20
"""Times what a state took that lie between it and the next: a slow disk may not slow a run."""
Spent = Mapping[str, Mapping[str, int]]
"""What was counted of each institution: its name -> what -> how many."""


class Checkpoint:
    """The way back of one run, open in one process. Use `begin` or `resume`."""

    def __init__(self, folder: RunFolder, manifest: Manifest, lock: int) -> None:
        self.folder, self.manifest = folder, manifest
        self.state: State | None = None
        """What the run had come to when it was last set down."""
        self.notes: Mapping[str, Any] = {}
        """What its driver noted with that."""
        self.cards: list[Card] = []
        """Of the institutions that take part; none before the first question."""
        self.counted: Callable[[], Spent] = dict
        """What the engine has counted since this process began."""
        self.earlier: Spent = {}
        """What was counted in the lives before."""
        self.strikes = Strikes(folder.path / FOLDER / STRUCK)
        """Of this run, in whichever life of it."""
        self._lock, self._before, self._started = lock, 0.0, time.monotonic()
        self._written, self._took, self._asking = self._started, 0.0, True
        path = folder.path
        self._state = path / FOLDER / STATE
        self._recorder = Recorder(
            path / REPLIES if manifest.record else path / FOLDER / REPLIES, durable=True
        )
        self._replay: Replay | None = None
        self._ahead = 0  # questions that the journal has yet to tell of

    @classmethod
    def begin(
        cls, path: Path, experiment: Experiment, engine: str, every: float, record: bool = False
    ) -> "Checkpoint":
        """Of a new run.

        Args:
            path: of its folder, empty or not there yet.
            experiment: resolved.
            engine: which one drives it.
            every: seconds between states, 0 for none.
            record: keep every reply when it is over.

        Raises:
            SettingsError: the folder is taken, or cannot be made.
        """
        folder = RunFolder.create(path)
        manifest = Manifest(
            experiment=experiment, engine=engine, every=every, record=record, versions=versions()
        )
        return cls(folder, manifest, hold(path))._noted()

    @classmethod
    def resume(cls, path: Path, *engines: str) -> "Checkpoint":
        """Of a run that was cut short, as it was when its state was last written.

        Args:
            path: of its folder.
            engines: that the run may have been begun by; none: any.

        Raises:
            SettingsError: there is none, it is finished, it is another engine's, or another
                process is at it.
            DataError: what it left cannot be read, is of another version, or nothing can be
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
        lock = hold(path)
        try:
            again = manifest.model_copy(update={"resumed": manifest.resumed + 1})
            for torn in (path / FOLDER).glob(".*"):
                torn.unlink()
            state = read(file) if (file := path / FOLDER / STATE).exists() else None
            notes = state.numbers["notes"] if state is not None else {}
            found = cls(RunFolder.resume(path, notes.get("events", 0)), again, lock)
            found.state, found.notes = state, notes
            found._rewind()
            return found._noted()
        except BaseException as error:
            os.close(lock)
            if isinstance(error, OSError):
                raise DataError(f"cannot write in {path}: {error.strerror}; make room") from error
            raise

    @property
    def books(self) -> Path:
        """Where simulated institutions keep what they were asked, through all lives of the run."""
        return self.folder.path.resolve() / FOLDER / BOOKS

    @property
    def questions(self) -> int:
        """Answered and kept so far."""
        return self._recorder.questions

    @property
    def seconds(self) -> float:
        """That the run took so far, in all its lives."""
        return self._before + time.monotonic() - self._started

    def total(self) -> dict[str, dict[str, int]]:
        """What was counted of each institution since the run began."""
        now = self.counted()
        return {
            name: {
                what: self.earlier.get(name, {}).get(what, 0) + now.get(name, {}).get(what, 0)
                for what in {**self.earlier.get(name, {}), **now.get(name, {})}
            }
            for name in {**self.earlier, **now}
        }

    @property
    def known(self) -> tuple[Card, ...]:
        """Of everybody who ever took part, as far as the journal goes."""
        return tuple(self._recorder.cards)

    def agreed(self, cards: list[Card]) -> list[Card]:
        """Who takes part: whoever did when the run was set down. Joiners are added to the list.

        Raises:
            DataError: an institution is no longer what it was.
        """
        before = {card.name: card for card in self.cards}
        for card in cards:
            if card != before.get(card.name, card):
                raise DataError(
                    f"{card.name} is not as it was when the run in {self.folder.path} began; "
                    "bring it back as it was, or start the run again"
                )
        return self.cards or cards

    def convene(self, cards: list[Card]) -> None:
        """The institutions are known, and the first question may come.

        Raises:
            DataError: that cannot be written.
        """
        if not self.cards:
            self.cards = cards
            try:
                self._recorder.begin(cards)
            except OSError as error:
                raise self._full(error) from error

    def hear(self, request: Request) -> Heard | None:
        """What was answered to this question in an earlier life, if it was.

        Raises:
            DataError: another one was asked then.
        """
        if self._replay is None or not self._ahead:
            return None
        self._ahead -= 1
        return self._replay.hear(request)

    def keep(
        self, request: Request, answers: Answers, lost: Lost, joined: Sequence[Card] = ()
    ) -> None:
        """Put what was answered on the disk, and who takes part since.

        Raises:
            DataError: it cannot be written.
        """
        try:
            self._recorder.keep(request, answers, lost, self._spent(), joined)
        except OSError as error:
            raise self._full(error) from error

    def rest(self, asking: bool, take: Callable[[], State], notes: Mapping[str, Any]) -> None:
        """The run rests: write its state, if that is due.

        Args:
            asking: whether there are questions to come; the last one is a reason to write.
            take: the state.
            notes: what the driver wants to know after a resume, JSON.

        Raises:
            OSError: it cannot be written; the one before is still there.
        """
        if not self.manifest.every or self._ahead:
            return
        apart = max(self.manifest.every, LEAST_APART * self._took)
        started = time.monotonic()
        if started - self._written < apart and asking == self._asking:
            return
        self._written, self._asking = started, asking
        try:
            self._write(take(), {**notes, "asking": asking})
        finally:
            self._took = time.monotonic() - started

    def finish(self) -> None:
        """The run is over, and its result written: there is no way back."""
        self.close()
        shutil.rmtree(self.folder.path / FOLDER, ignore_errors=True)

    def abandon(self) -> None:
        """Leave no trace of a run that could not begin."""
        self.close()
        if not self.cards:
            shutil.rmtree(self.folder.path / FOLDER, ignore_errors=True)
            (self.folder.path / MANIFEST).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the folder; closing twice does no harm."""
        self._recorder.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _write(self, state: State, notes: Mapping[str, Any]) -> None:
        own = {"events": self.folder.settle(), "questions": self.questions, **self._spent()}
        whole = State(state.tensors, {**state.numbers, "notes": {**notes, **own}})
        with replacing(self._state) as file:
            write(whole, file)
        if not self.manifest.record:  # what was answered before is in the state
            self._recorder.begin(self.cards, self.questions)

    def _rewind(self) -> None:
        """Open the journal at the question that comes after the state."""
        if not self._recorder.path.exists() and self.state is None:
            return  # it had not begun to ask
        self._replay = self._recorder.go_on()
        self.cards = self._replay.cards
        start = self.notes.get("questions", 0)
        if not self._replay.first <= start <= self._recorder.questions:
            raise DataError(
                f"{self._recorder.path} does not hold what was answered after {start} questions; "
                "start the run again"
            )
        for _ in range(start - self._replay.first):
            self._replay.skip()
        self._ahead = self._recorder.questions - start
        self._asking = self.notes.get("asking", True)
        spent = max(self._recorder.note, self.notes, key=lambda of: of.get("seconds", 0.0))
        self._before, self.earlier = spent.get("seconds", 0.0), spent.get("counted", {})

    def _spent(self) -> dict[str, Any]:
        """What no replay can tell."""
        return {"seconds": self.seconds, "counted": self.total()}

    def _noted(self) -> "Checkpoint":
        text = self.manifest.model_dump_json(indent=2)
        write_whole(self.folder.path / MANIFEST, (text + "\n").encode())
        (self.folder.path / FOLDER).mkdir(exist_ok=True)
        return self

    def _full(self, error: OSError) -> DataError:
        return DataError(
            f"cannot write {self._recorder.path}: {error.strerror}; make room there and resume"
        )


def settle(path: Path, last: Callable[[Path], object]) -> bool:
    """End a run that was killed between its result and its end.

    Args:
        path: of its folder.
        last: makes what is missing there.

    Returns:
        Whether there was such a run.

    Raises:
        SettingsError: another process is at it.
    """
    way_back = path / FOLDER
    if not (path / RESULT).exists() or ((path / PAGE).exists() and not way_back.exists()):
        return False
    lock = hold(path)
    try:
        last(path)
        shutil.rmtree(way_back, ignore_errors=True)
    finally:
        os.close(lock)
    return True


@contextmanager
def kept(checkpoint: Checkpoint | None, again: str) -> Iterator[None]:
    """Whoever cuts the run short is told how it goes on; the folder is let go of in any case.

    Args:
        checkpoint: its way back, if it has one.
        again: the command that takes it up again.
    """
    if checkpoint is None:
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        print(f"fedkd: interrupted; go on with: {again}", file=sys.stderr)
        raise
    except FedkdError:
        checkpoint.abandon()
        if checkpoint.questions:
            print(f"fedkd: go on with: {again}", file=sys.stderr)
        raise
    finally:
        checkpoint.close()
