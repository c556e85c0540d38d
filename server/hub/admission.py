"""Who may come in: what a Hello's token is held against. Knows no session and no question.

A refusal says no more than whoever holds the token knows already: an unknown token, and the token
of somebody else, are refused in the same words.
"""

import hashlib
import hmac
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from fedkd.errors import DataError, SettingsError
from fedkd.wire.messages import LONGEST_NAME

STRANGER = "the token is not of this run; ask the coordinator for it"
EXPIRED = "the token has expired; ask the coordinator for another"
USED = "the token was used already; ask the coordinator for another"
BUSY_SECONDS = 10.0
"""For another process to finish with the file."""

_TABLE = """
CREATE TABLE IF NOT EXISTS tokens (
  name TEXT PRIMARY KEY, digest BLOB NOT NULL, expires REAL NOT NULL, holder BLOB
) STRICT
"""


class Admission(Protocol):
    """Decides who may come in. Called in a thread of its own, at most a few at a time."""

    def admit(self, token: str, name: str, certificate: bytes | None) -> str | None:
        """Why ``name`` may not come in with ``token``, in one line; None where it may.

        Args:
            token: as it was said.
            name: of the institution; where there is a certificate, it stands in it.
            certificate: DER, checked by TLS; None where the connection has none.
        """


class RunToken:
    """One secret for everybody in a run.

    Raises:
        SettingsError: it is empty.
    """

    def __init__(self, token: str) -> None:
        if not token:
            raise SettingsError("an empty token would let anyone in; give the run a secret one")
        self._digest = _digest(token)

    def admit(self, token: str, name: str, certificate: bytes | None) -> str | None:
        """Whoever knows the secret may come in, under any name; see `Admission`."""
        return None if hmac.compare_digest(_digest(token), self._digest) else STRANGER


class JoinTokens:
    """Tokens for named institutions, each good for one: whoever uses it first.

    The first admission binds a token to the certificate that came with it, by its SHA-256. That
    certificate may come back with it, after a lost connection, for as long as the file is there;
    nobody else may. **Without certificates a token is bound to its name alone**, so that whoever
    learns it may come back in its owner's place: that is for loopback.

    The file holds digests of tokens and can be read by its owner only. Several processes may use
    it at once.

    Args:
        path: of the file; it is made where there is none.

    Raises:
        DataError: the file cannot be opened, or is none of ours.
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
        with self._books() as books:
            books.execute(_TABLE)

    def issue(self, name: str, hours: float = 24.0) -> str:
        """A new token for ``name``, in the place of any that it had; it is shown this once.

        Args:
            name: of the institution, 1 to 64 printable characters.
            hours: in which it must be used for the first time, > 0.

        Raises:
            SettingsError: no such name, or no such time.
            DataError: the file cannot be written.
        """
        if not (0 < len(name) <= LONGEST_NAME and name.isprintable()):
            raise SettingsError(
                f"a name of {len(name)} characters; give 1 to {LONGEST_NAME} printable ones"
            )
        if not 0 < hours < float("inf"):
            raise SettingsError(f"a token for {hours} hours; give a time above 0")
        token = secrets.token_urlsafe(32)
        row = (name, _digest(token), time.time() + 3600.0 * hours)
        with self._books() as books:
            books.execute("REPLACE INTO tokens VALUES (?, ?, ?, NULL)", row)
        return token

    def admit(self, token: str, name: str, certificate: bytes | None) -> str | None:
        """See `Admission`; a token's first admission uses it up.

        Raises:
            DataError: the file cannot be read or written.
        """
        digest, holder = _digest(token), _holder(certificate)
        with self._books() as books:
            found = books.execute(
                "SELECT digest, expires, holder FROM tokens WHERE name = ?", (name,)
            ).fetchone()
            known, expires, bound = found or (bytes(32), 0.0, None)
            if not hmac.compare_digest(digest, known):
                return STRANGER
            if bound is not None:
                return None if hmac.compare_digest(bound, holder) else USED
            if time.time() > expires:
                return EXPIRED
            books.execute("UPDATE tokens SET holder = ? WHERE name = ?", (holder, name))
        return None

    @contextmanager
    def _books(self) -> Iterator[sqlite3.Connection]:
        """The file in one transaction, which no other process sees half of."""
        try:
            with closing(sqlite3.connect(self._path, BUSY_SECONDS, isolation_level=None)) as books:
                books.execute("BEGIN IMMEDIATE")
                yield books
                books.execute("COMMIT")
        except sqlite3.Error as error:
            raise DataError(
                f"cannot use {self._path}: {error}; give the file of this run's tokens"
            ) from error


def _digest(token: str) -> bytes:
    # Tokens are random and long: a slow hash would protect nothing more.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _holder(certificate: bytes | None) -> bytes:
    """What a used token is bound to; no certificate has the empty digest."""
    return b"" if certificate is None else hashlib.sha256(certificate).digest()


def kept_token(file: Path) -> str:
    """The token of a run that can be taken up again: drawn once, and kept in a file of its own.

    Raises:
        DataError: the file cannot be written or read.
    """
    try:
        with suppress(FileExistsError):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as fresh:
                fresh.write(secrets.token_urlsafe())
        return file.read_text()
    except OSError as error:
        raise DataError(
            f"cannot keep the run's token in {file}: {error.strerror}; make room there, or name "
            "another folder"
        ) from error
