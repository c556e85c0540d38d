"""Admission of institutions by token: one token per run, or one-time join tokens in SQLite.

A rejection reveals nothing that the holder of the token does not know: an unknown token and the
token of another institution are rejected in the same words.
"""

import hashlib
import hmac
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from fedkd.errors import DataError, SettingsError
from fedkd.process.private_files import private_opener
from fedkd.wire import MAX_NAME_LENGTH

UNKNOWN_TOKEN = "the token is not of this run; ask the coordinator for it"
EXPIRED_TOKEN = "the token has expired; ask the coordinator for another"
USED_TOKEN = "the token was used already; ask the coordinator for another"
LOCK_TIMEOUT_SECONDS = 10.0
"""Timeout for the database lock of another process."""

_TABLE = """
CREATE TABLE IF NOT EXISTS tokens (
  name TEXT PRIMARY KEY, digest BLOB NOT NULL, expires REAL NOT NULL, holder BLOB
) STRICT
"""


class Admission(Protocol):
    """Decides which institutions are admitted. Called in worker threads, a few at a time."""

    def admit(self, token: str, name: str, certificate: bytes | None) -> str | None:
        """Why ``name`` is not admitted with ``token``, in one line; None if it is.

        Args:
            token: as received.
            name: of the institution; if there is a certificate, it names it.
            certificate: DER, verified by TLS; None if the connection has none.
        """


class RunToken:
    """One token that all institutions of a run share.

    Raises:
        SettingsError: it is empty.
    """

    def __init__(self, token: str) -> None:
        if not token:
            raise SettingsError("an empty token would let anyone in; give the run a secret one")
        self._digest = _digest(token)

    def admit(self, token: str, name: str, certificate: bytes | None) -> str | None:
        """Admits every institution that has the token, under any name; see `Admission`."""
        return None if hmac.compare_digest(_digest(token), self._digest) else UNKNOWN_TOKEN


class JoinTokens:
    """One-time join tokens for named institutions, in an SQLite file.

    The first admission binds a token to the client certificate that came with it, by its SHA-256.
    That certificate may use it again, after a lost connection, for as long as the file exists;
    no other may. **Without certificates a token is bound to its name alone**, so that anybody who
    learns it may use it again: that is for loopback only.

    The file holds digests of tokens and is readable by its owner only. Several processes may use
    it at once.

    Args:
        path: of the file; created if it does not exist.

    Raises:
        DataError: the file cannot be opened, or holds something else.
        SettingsError: others can read it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            mode = path.stat().st_mode
        except OSError as error:
            raise DataError(f"cannot open {path}: {error.strerror}; choose another file") from error
        if mode & 0o077:
            raise SettingsError(f"others can read {path}; chmod 600 it, and issue its tokens again")
        with self._transaction() as database:
            database.execute(_TABLE)

    def issue(self, name: str, hours: float = 24.0) -> str:
        """A new token for ``name``, which replaces any that it had; only its digest is stored.

        Args:
            name: of the institution, 1 to 64 printable characters.
            hours: until it expires if it was not used, > 0.

        Raises:
            SettingsError: no such name, or no such time.
            DataError: the file cannot be written.
        """
        if not (0 < len(name) <= MAX_NAME_LENGTH and name.isprintable()):
            raise SettingsError(
                f"a name of {len(name)} characters; give 1 to {MAX_NAME_LENGTH} printable ones"
            )
        if not 0 < hours < float("inf"):
            raise SettingsError(f"a token for {hours} hours; give a time above 0")
        token = secrets.token_urlsafe(32)
        row = (name, _digest(token), time.time() + 3600.0 * hours)
        with self._transaction() as database:
            database.execute("REPLACE INTO tokens VALUES (?, ?, ?, NULL)", row)
        return token

    def admit(self, token: str, name: str, certificate: bytes | None) -> str | None:
        """See `Admission`; the first admission binds the token.

        Raises:
            DataError: the file cannot be read or written.
        """
        digest, holder = _digest(token), _certificate_digest(certificate)
        with self._transaction() as database:
            found = database.execute(
                "SELECT digest, expires, holder FROM tokens WHERE name = ?", (name,)
            ).fetchone()
            known, expires, bound_to = found or (bytes(32), 0.0, None)
            if not hmac.compare_digest(digest, known):
                return UNKNOWN_TOKEN
            if bound_to is not None:
                return None if hmac.compare_digest(bound_to, holder) else USED_TOKEN
            if time.time() > expires:
                return EXPIRED_TOKEN
            database.execute("UPDATE tokens SET holder = ? WHERE name = ?", (holder, name))
        return None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The database within one exclusive transaction."""
        try:
            with closing(
                sqlite3.connect(self._path, LOCK_TIMEOUT_SECONDS, isolation_level=None)
            ) as database:
                database.execute("BEGIN IMMEDIATE")
                yield database
                database.execute("COMMIT")
        except sqlite3.Error as error:
            raise DataError(
                f"cannot use {self._path}: {error}; give the file of this run's tokens"
            ) from error


def _digest(token: str) -> bytes:
    # Tokens are long and random, so a slow password hash would not protect them better.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _certificate_digest(certificate: bytes | None) -> bytes:
    """What a used token is bound to; empty without a certificate."""
    return b"" if certificate is None else hashlib.sha256(certificate).digest()


def persistent_run_token(file: Path) -> str:
    """The token of a run that can be resumed: drawn once, then read from ``file``.

    Raises:
        DataError: the file cannot be written or read.
    """
    try:
        # An empty file is what a full disk left of a token that nobody was told.
        if not file.exists() or not file.stat().st_size:
            _write_token(file, secrets.token_urlsafe())
        return file.read_text()
    except OSError as error:
        raise DataError(
            f"cannot keep the run's token in {file}: {error.strerror}; make room there, or name "
            "another folder"
        ) from error


def _write_token(file: Path, token: str) -> None:
    """Writes a token to a file of its owner's, which is there once the whole token is on the disk.

    The run's folder is locked, so that no other process draws one meanwhile.
    """
    temporary = file.with_name(f".{file.name}.part")
    temporary.unlink(missing_ok=True)
    try:
        with open(temporary, "x", opener=private_opener) as fresh:
            fresh.write(token)
            fresh.flush()
            os.fsync(fresh.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
