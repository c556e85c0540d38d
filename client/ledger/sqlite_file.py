"""The ledger's SQLite file: its schema, and how it is created and opened.

The file is readable to its owner alone. It is created whole or not at all.
"""

import contextlib
import os
import secrets
import sqlite3
from pathlib import Path

from fedkd.client.ledger.hash_chain import ANSWERED, TRAINING

BUSY_TIMEOUT_SECONDS = 30.0
"""Seconds to wait for another process that writes."""
APPLICATION, VERSION = 0x66656B64, 4
"""SQLite's application id and user version, by which a ledger of this schema is known."""
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE entries (
  sequence INTEGER PRIMARY KEY, time TEXT NOT NULL, server TEXT NOT NULL, kind TEXT NOT NULL,
  signals TEXT NOT NULL, count INTEGER NOT NULL, digest TEXT NOT NULL, decision TEXT NOT NULL,
  reason TEXT NOT NULL, cost INTEGER NOT NULL, micro_rho INTEGER NOT NULL,
  epsilon REAL NOT NULL, delta REAL NOT NULL, data_set TEXT NOT NULL, mode TEXT NOT NULL,
  queries INTEGER NOT NULL DEFAULT 1,
  before INTEGER NOT NULL, after INTEGER NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE UNIQUE INDEX charged_once ON entries (digest) WHERE decision = '{ANSWERED}';
CREATE INDEX charged_when ON entries (time, cost) WHERE decision = '{ANSWERED}';
CREATE INDEX charged_to ON entries (data_set, mode, micro_rho) WHERE micro_rho > 0;
CREATE INDEX trained_on ON entries (data_set, epsilon, delta) WHERE kind = '{TRAINING}';
CREATE INDEX told_of ON entries (data_set, cost) WHERE mode = 'none' AND cost > 0;
CREATE TABLE secret (key BLOB NOT NULL);
CREATE TABLE images (
  digest BLOB NOT NULL, data_set TEXT NOT NULL, PRIMARY KEY (digest, data_set)
) WITHOUT ROWID;
CREATE TABLE kin (
  one TEXT NOT NULL, other TEXT NOT NULL, PRIMARY KEY (one, other)
) WITHOUT ROWID;
CREATE TABLE answers (row BLOB PRIMARY KEY, told BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE head (sequence INTEGER NOT NULL, hash TEXT NOT NULL);
INSERT INTO head VALUES (0, '');
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""
FROM_VERSION_3 = """
BEGIN IMMEDIATE;
ALTER TABLE entries ADD COLUMN queries INTEGER NOT NULL DEFAULT 1;
PRAGMA user_version = 4;
COMMIT;
"""
"""In version 3 every query had an entry of its own."""


def open_in_memory() -> sqlite3.Connection:
    """An empty ledger that ends with the process."""
    db = _connect(":memory:")
    _create_schema(db)
    return db


def open_file(path: Path, durable: bool) -> sqlite3.Connection:
    """The ledger in a file, which is created where there is none.

    Args:
        path: of the file.
        durable: see `fedkd.client.ledger.ledger.Ledger`.

    Raises:
        OSError: the file cannot be created or read.
        sqlite3.Error: it is no ledger, or cannot be opened.
    """
    path = path.absolute()
    if not path.exists():
        _create_file(path)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)  # SQLite gives the files beside it the same
    db = _connect(f"{path.as_uri()}?mode=rw")
    try:
        if _ids(db) == [APPLICATION, 3]:
            with contextlib.suppress(sqlite3.OperationalError):  # another agent was quicker
                db.executescript(FROM_VERSION_3)
            if db.in_transaction:
                db.execute("ROLLBACK")
        if _ids(db) != [APPLICATION, VERSION]:
            raise sqlite3.DatabaseError("it is no ledger of this version of fedkd")
        if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise sqlite3.DatabaseError("a write-ahead log cannot be had there; use a local disk")
        db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        # Where a plain fsync does not reach the disk.
        db.execute(f"PRAGMA fullfsync = {int(durable)}")
    except BaseException:
        db.close()
        raise
    return db


def file_identity(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Device and inode of the ledger's file and of its write-ahead log; None for a missing one.

    They are looked up and never opened: closing such a file would end SQLite's locks on it.
    """
    found: list[tuple[int, int] | None] = []
    for each in (path, path.with_name(f"{path.name}-wal")):
        try:
            status = each.stat()
            found.append((status.st_dev, status.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)


def _ids(db: sqlite3.Connection) -> list[int]:
    names = ("application_id", "user_version")
    return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]


def _create_file(path: Path) -> None:
    """Create an empty ledger, whole or not at all, with the right mode from the start.

    SQLite loses its locks on a file when the same process closes it by other means. So the file is
    made under a temporary name, and only SQLite ever opens it under its own.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        db = _connect(f"{part.as_uri()}?mode=rw")
        try:
            db.execute("PRAGMA journal_mode = WAL")
            _create_schema(db)
        finally:
            db.close()
        try:
            os.link(part, path)
        except FileExistsError:
            return  # another agent created it first
        fsync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def copy_database(source: sqlite3.Connection, path: Path) -> None:
    """Copy a database into one new file, readable to its owner alone.

    Raises:
        OSError: the file exists, or cannot be created.
        sqlite3.Error: it cannot be copied.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(_connect(f"{path.absolute().as_uri()}?mode=rw")) as copy:
        source.backup(copy)


def fsync(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create_schema(db: sqlite3.Connection) -> None:
    db.executescript(SCHEMA)
    db.execute("INSERT INTO secret VALUES (?)", (secrets.token_bytes(32),))


def _connect(name: str) -> sqlite3.Connection:
    db = sqlite3.connect(
        name, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None, check_same_thread=False
    )
    # Bytes that are no text must be found by verification, and not stop the reader.
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return db
