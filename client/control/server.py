"""Server of the control socket: Flower's ClientApp asks for a session or an evaluation.

Whoever calls ``flwr run`` chooses the code that connects, so every request is untrusted. It can
have a session opened with an allowed coordinator, and have a student evaluated where the policy
releases scores; there is no other verb. Errors have fixed texts: no path, no text of an exception.
Frames, connections at a time and the time of each are bounded.
"""

import logging
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedkd.client.control import framing
from fedkd.client.institution import Institution
from fedkd.client.institution.student_weight_loading import (
    build_student,
    is_installed,
    load_weights,
    max_weights_bytes,
)
from fedkd.client.sessions.session_manager import SessionManager
from fedkd.errors import DataError, FedkdError, RemoteProtocolError, SettingsError
from fedkd.process.logs import log_event
from fedkd.protocol import Refusal
from fedkd.wire import one_line

MAX_CONNECTIONS = 8
"""Connections at a time; more wait in the socket's queue."""
TIMEOUT_SECONDS = 5.0
"""To receive a request, or to send an answer."""
UPLOAD_TIMEOUT_SECONDS = 60.0
"""To receive a student's weights."""
CLOSE_SECONDS = 20.0
"""For requests in progress, an evaluation above all, once the server is closed."""
POLL_SECONDS = 0.2
"""Between checks whether to stop."""
MAX_PATH_BYTES = 107
"""Of a Unix socket's path, on Linux."""

Answer = dict[str, Any]

log = logging.getLogger(__name__)


class ControlServer:
    """Listens from its construction until `close`; as a context manager it closes itself.

    Args:
        path: of the socket. Nobody but the owner, and the group, can reach it.
        institution: evaluates students.
        sessions: open sessions with coordinators.
        group: whose members may connect too; None for the owner alone.

    Raises:
        SettingsError: there can be no socket at that path.
    """

    def __init__(
        self,
        path: Path,
        institution: Institution,
        sessions: SessionManager,
        group: str | None = None,
    ) -> None:
        self._path, self._institution, self._sessions = path, institution, sessions
        self._listener = _listen(path, group)
        self._stop = threading.Event()
        self._slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._handlers: list[threading.Thread] = []
        self._evaluating = threading.Lock()
        self._thread = threading.Thread(target=self._accept_loop, name="fedkd-control", daemon=True)
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
        """Accept no more connections. Requests in progress are still answered, for a while."""
        self._stop.set()
        self._thread.join()
        until = time.monotonic() + CLOSE_SECONDS
        while any(each.is_alive() for each in self._handlers) and time.monotonic() < until:
            time.sleep(POLL_SECONDS / 10)

    def _accept_loop(self) -> None:
        with self._listener:
            while not self._stop.is_set():
                if not self._slots.acquire(timeout=POLL_SECONDS):
                    continue
                connection = self._accept()
                if connection is None:
                    self._slots.release()
                else:
                    handler = threading.Thread(target=self._handle, args=(connection,), daemon=True)
                    self._handlers = [each for each in self._handlers if each.is_alive()]
                    self._handlers.append(handler)
                    handler.start()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> socket.socket | None:
        try:
            return self._listener.accept()[0]
        except OSError:  # no connection, one that is gone again, or no file descriptor left
            self._stop.wait(0.01)
            return None

    def _handle(self, connection: socket.socket) -> None:
        """One connection, from its request to its answer. Its failure affects no other."""
        verb, outcome = "unknown", "answered"
        try:
            with connection:
                try:
                    request = framing.receive_json(connection, TIMEOUT_SECONDS)
                    if request.get("verb") in ("session", "evaluate"):
                        verb = request["verb"]
                    answer = self._answer(connection, request)
                except RemoteProtocolError as error:
                    answer = _error(str(error))
                outcome = "objection" if "objection" in answer else outcome
                framing.send_json(connection, answer, TIMEOUT_SECONDS)
        except OSError:
            outcome = "lost"
        except Exception as error:  # a bug here: this connection ends, the server goes on
            outcome = "failed"
            log_event(
                log, "control_request_failed", logging.ERROR, verb=verb, error=type(error).__name__
            )
        finally:
            self._slots.release()
            level = logging.INFO if outcome == "answered" else logging.WARNING
            log_event(log, "control_request", level, verb=verb, outcome=outcome)

    def _answer(self, connection: socket.socket, request: Mapping[str, Any]) -> Answer:
        match request:
            case {"verb": "session", "address": str(address), "token": str(token)}:
                refused = self._sessions.open(address, token)
                return {"open": 1} if refused is None else _error(refused)
            case {
                "verb": "evaluate",
                "model": str(model),
                "classes": [*names],
                "shape": [int(), int(), int()] as shape,
            }:
                return self._evaluate(
                    connection, model, [str(name) for name in names], tuple(shape)
                )
        return _error("expected the verb session or evaluate, with what belongs to it")

    def _evaluate(
        self, connection: socket.socket, model: str, names: list[str], shape: tuple[int, ...]
    ) -> Answer:
        card = self._institution.card
        if not card.scores:
            return {"score": None}
        if shape != card.shape:
            return _error(f"students of images {shape}; expected {card.shape}")
        if not is_installed(model):  # first, since `build_student` says what else is installed
            return _error("a student of a network that is not installed here")
        if not self._evaluating.acquire(blocking=False):
            return _error("another student is being examined; come back later")
        try:
            student = build_student(model, len(names), card.shape, card.columns)
            limit = max_weights_bytes(student)
            framing.send_json(connection, {"go": limit}, TIMEOUT_SECONDS)
            load_weights(student, framing.receive_frame(connection, limit, UPLOAD_TIMEOUT_SECONDS))
        except (
            DataError,
            SettingsError,
        ) as error:  # about the student: the text quotes nothing of this institution
            return _error(str(error))
        else:
            return self._score(student, names)
        finally:
            self._evaluating.release()

    def _score(self, student: Any, names: list[str]) -> Answer:
        try:
            score = self._institution.score(student, names)
        except FedkdError as error:  # about private data
            log_event(log, "evaluation_failed", logging.ERROR, reason=str(error))
            return _error("the student could not be examined")
        return _error(score.text) if isinstance(score, Refusal) else {"score": score}


def _error(text: str) -> Answer:
    return {"objection": one_line(text)}


def _listen(path: Path, group: str | None) -> socket.socket:
    """A listening socket, reachable by the owner and the group alone, and only then at ``path``."""
    new = path.with_suffix(".new")
    if (length := max(len(os.fsencode(each)) for each in (path, new))) > MAX_PATH_BYTES:
        raise SettingsError(
            f"the socket's path has {length} bytes and the system takes {MAX_PATH_BYTES}; name a "
            "shorter one as state.socket"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _prepare_folder(path.parent, group)
        _check_vacant(path)
        new.unlink(missing_ok=True)
        listener.bind(str(new))
        if group is not None:
            shutil.chown(new, group=group)
        new.chmod(0o600 if group is None else 0o660)
        listener.settimeout(POLL_SECONDS)
        listener.listen(MAX_CONNECTIONS)
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


def _prepare_folder(folder: Path, group: str | None) -> None:
    """Create the socket's folder, or check that only the owner and the group can enter it."""
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700)
        if group is not None:
            shutil.chown(folder, group=group)
            folder.chmod(0o710)
    closed = 0o077 if group is None else 0o027
    if folder.stat().st_mode & closed:
        mode = "700" if group is None else "710"
        raise SettingsError(f"{folder}, the socket's folder, is open to others; chmod {mode} it")


def _check_vacant(path: Path) -> None:
    """Check that nothing listens there; the socket of a killed agent may be replaced."""
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise SettingsError(f"{path} is no socket; remove it, or name another state.socket")
    with suppress(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        raise SettingsError(f"another agent listens at {path}; stop it, or name another socket")
