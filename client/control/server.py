"""The bell: a Unix socket of the owner's, at which Flower's ClientApp may ring.

Whoever calls ``flwr run`` chooses the code that rings, so everything that comes is untrusted. It
can see the card, have an allowed coordinator dialled, and have a student examined where the policy
tells scores; there is no other verb. It is answered in sentences that stand in our code: no path,
no text of an exception. Frames are bounded, and so are rings at a time and what each may last.
"""

import logging
import os
import shutil
import socket
import stat
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedkd.client.control import framing as frames
from fedkd.client.institution import Institution
from fedkd.client.institution.submitted_student import fill, most_bytes, network
from fedkd.client.monitoring.console import told
from fedkd.client.sessions.session_manager import SessionManager
from fedkd.core.logs import say
from fedkd.errors import DataError, FedkdError, RemoteProtocolError, SettingsError
from fedkd.protocol import Refusal
from fedkd.wire import one_line

AT_ONCE = 8
"""Rings at a time; those that come then wait to be heard."""
SECONDS = 5.0
"""For a request to come, or an answer to go."""
WEIGHTS_SECONDS = 60.0
"""For a student to come."""
LOOK_UP = 0.2
"""Seconds between looks whether to stop."""
LONGEST_PATH = 107
"""Bytes of a Unix socket's path, on Linux."""

Answer = dict[str, Any]

log = logging.getLogger(__name__)


class ControlServer:
    """Listens from its construction until `close`; as a context manager it closes itself.

    Args:
        path: of the socket. Nobody but the owner, and the group, can reach it.
        institution: shows its card, examines students.
        sessions: dial coordinators.
        group: whose members may ring too; None for the owner alone.

    Raises:
        SettingsError: there can be no socket at that path.
    """

    def __init__(
        self, path: Path, institution: Institution, sessions: SessionManager, group: str | None = None
    ) -> None:
        self._path, self._institution, self._sessions = path, institution, sessions
        self._listener = _listening(path, group)
        self._stop = threading.Event()
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._examining = threading.Lock()
        self._thread = threading.Thread(target=self._listen, name="fedkd-bell", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hear nobody any more. Whoever is being answered still is."""
        self._stop.set()
        self._thread.join()

    def _listen(self) -> None:
        with self._listener:
            while not self._stop.is_set():
                if not self._slots.acquire(timeout=LOOK_UP):
                    continue
                line = self._next()
                if line is None:
                    self._slots.release()
                else:
                    threading.Thread(target=self._ring, args=(line,), daemon=True).start()
        self._path.unlink(missing_ok=True)

    def _next(self) -> socket.socket | None:
        try:
            return self._listener.accept()[0]
        except OSError:  # nobody rang, or who did is gone, or there is no descriptor left
            self._stop.wait(0.01)
            return None

    def _ring(self, line: socket.socket) -> None:
        """One ring, from its request to its answer. Nothing that it does harms another."""
        verb, outcome = "unknown", "answered"
        try:
            with line:
                try:
                    request = frames.hear(line, SECONDS)
                    if request.get("verb") in ("card", "session", "evaluate"):
                        verb = request["verb"]
                    answer = self._answer(line, request)
                except RemoteProtocolError as error:
                    answer = _objection(str(error))
                outcome = "objection" if "objection" in answer else outcome
                frames.say(line, answer, SECONDS)
        except OSError:
            outcome = "lost"
        except Exception as error:  # a defect of ours: the ring ends, the bell does not
            outcome = "failed"
            say(log, "ring_failed", logging.ERROR, verb=verb, error=type(error).__name__)
        finally:
            self._slots.release()
            level = logging.INFO if outcome == "answered" else logging.WARNING
            say(log, "ring", level, verb=verb, outcome=outcome)

    def _answer(self, line: socket.socket, request: Mapping[str, Any]) -> Answer:
        match request:
            case {"verb": "card"}:
                return {"card": told(self._institution.card)}
            case {"verb": "session", "address": str(address), "token": str(token)}:
                objection = self._sessions.open(address, token)
                return {"open": 1} if objection is None else _objection(objection)
            case {
                "verb": "evaluate",
                "model": str(model),
                "classes": [*names],
                "shape": [int(), int(), int()] as shape,
            }:
                return self._evaluate(line, model, [str(name) for name in names], tuple(shape))
        return _objection("expected the verb card, session or evaluate, with what belongs to it")

    def _evaluate(
        self, line: socket.socket, model: str, names: list[str], shape: tuple[int, ...]
    ) -> Answer:
        card = self._institution.card
        if not card.scores:
            return {"score": None}
        if shape != card.shape:
            return _objection(f"students of images {shape}; expected {card.shape}")
        if not self._examining.acquire(blocking=False):
            return _objection("another student is being examined; come back later")
        try:
            student = network(model, len(names), card.shape)
            limit = most_bytes(student)
            frames.say(line, {"go": limit}, SECONDS)
            fill(student, frames.receive(line, limit, WEIGHTS_SECONDS))
        except (DataError, SettingsError) as error:  # about the student: it quotes nothing of ours
            return _objection(str(error))
        else:
            return self._examined(student, names)
        finally:
            self._examining.release()

    def _examined(self, student: Any, names: list[str]) -> Answer:
        try:
            score = self._institution.score(student, names)
        except FedkdError as error:  # about private data
            say(log, "examination_failed", logging.ERROR, reason=str(error))
            return _objection("the student could not be examined")
        return _objection(score.text) if isinstance(score, Refusal) else {"score": score}


def _objection(text: str) -> Answer:
    return {"objection": one_line(text)}


def _listening(path: Path, group: str | None) -> socket.socket:
    """A socket at ``path``, which nobody else can reach, and which listens once it is there."""
    new = path.with_suffix(".new")
    if (length := max(len(os.fsencode(each)) for each in (path, new))) > LONGEST_PATH:
        raise SettingsError(
            f"the socket's path has {length} bytes and the system takes {LONGEST_PATH}; name a "
            "shorter one as state.socket"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _enclose(path.parent, group)
        _vacant(path)
        new.unlink(missing_ok=True)
        listener.bind(str(new))
        if group is not None:
            shutil.chown(new, group=group)
        new.chmod(0o600 if group is None else 0o660)
        listener.settimeout(LOOK_UP)
        listener.listen(AT_ONCE)
        new.rename(path)
    except (OSError, LookupError) as error:
        listener.close()
        with suppress(OSError):
            new.unlink()
        reason = error.strerror if isinstance(error, OSError) else "no such group"
        raise SettingsError(
            f"there can be no socket at {path}: {reason}; name another state.socket or socket_group"
        ) from error
    except SettingsError:
        listener.close()
        raise
    return listener


def _enclose(folder: Path, group: str | None) -> None:
    """Make the socket's folder, or see that it is closed to all but the owner and the group."""
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700)
        if group is not None:
            shutil.chown(folder, group=group)
            folder.chmod(0o710)
    closed = 0o077 if group is None else 0o027
    if folder.stat().st_mode & closed:
        mode = "700" if group is None else "710"
        raise SettingsError(f"{folder}, the socket's folder, is open to others; chmod {mode} it")


def _vacant(path: Path) -> None:
    """See that nobody listens there; the socket of an agent that was killed may be replaced."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise SettingsError(f"{path} is no socket; remove it, or name another state.socket")
    with suppress(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        raise SettingsError(f"another agent listens at {path}; stop it, or name another socket")
