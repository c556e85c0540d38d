"""Request of an operator to exclude institutions from a run that another process has open.

The request is a line in the file of bans, which the coordinator reads before each question; see
`fedkd.server.hub.bans`. Whoever may write the run's folder is its operator.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedkd.errors import DataError, SettingsError
from fedkd.protocol import abbreviated
from fedkd.server.hub.bans import Bans, Exclusion
from fedkd.server.report.records.run_folder import EVENTS, RESULT, lock_folder
from fedkd.server.run.checkpoint import BANS, FOLDER, REPLIES
from fedkd.server.run.manifest import read_manifest
from fedkd.wire import Replay

BY_OPERATOR = "the operator excluded it"
WAIT_SECONDS = 10.0
"""How long `await_exclusion` waits."""


def request_exclusion(path: Path, names: Sequence[str], why: str = "") -> None:
    """Ask the process that has the run in ``path`` open to exclude institutions.

    Args:
        path: the run's folder.
        names: as on the cards of institutions that take part.
        why: a reason, for the record and for the excluded; empty: none is given.

    Raises:
        SettingsError: no run goes on there, it has no hub, or a name does not take part.
        DataError: a file of the run cannot be read or written.
    """
    manifest = read_manifest(path)
    if manifest.engine == "local":
        raise SettingsError(
            f"the run in {path} has all institutions in its own process; start it again without "
            "one instead"
        )
    if not _is_open(path):
        finished = (path / RESULT).exists()
        raise SettingsError(
            f"the run in {path} is finished; strike works while a run goes on"
            if finished
            else f"no process has the run in {path} open; go on without the institution instead: "
            f"fedkd-server run --resume {path} --without {names[0]}"
        )
    try:
        known = _names(path, recorded=manifest.record)
        if unknown := [name for name in names if name not in known]:
            raise SettingsError(
                f"{abbreviated(unknown)} takes no part in the run in {path}; "
                f"these do: {abbreviated(sorted(known))}"
            )
        bans = Bans(path / FOLDER / BANS)
    except OSError as error:
        raise DataError(f"cannot read the run in {path}: {error.strerror}") from error
    for name in names:
        bans.add(name, Exclusion(f"{BY_OPERATOR}: {why}" if why else BY_OPERATOR))


def await_exclusion(
    path: Path, names: Sequence[str], seconds: float = WAIT_SECONDS
) -> dict[str, int | None]:
    """By name, the samples asked before it was excluded; None: that did not happen in time.

    Args:
        path: the run's folder.
        names: of institutions whose exclusion was requested.
        seconds: most that are waited.
    """
    until = time.monotonic() + seconds
    while True:
        found = _excluded(path)
        if all(name in found for name in names) or time.monotonic() > until:
            return {name: found.get(name) for name in names}
        time.sleep(0.2)


def _is_open(path: Path) -> bool:
    """Whether a process holds the lock of the folder."""
    try:
        os.close(lock_folder(path))
    except SettingsError:
        return True
    return False


def _names(path: Path, *, recorded: bool) -> set[str]:
    """Of all institutions that took part so far."""
    replies = path / REPLIES if recorded else path / FOLDER / REPLIES
    if not replies.exists():
        raise SettingsError(f"the run in {path} has not begun to ask; wait for its first question")
    replay = Replay(replies)
    try:
        names = {card.name for card in replay.cards}
    finally:
        replay.close()
    return names | {event["name"] for event in _events(path) if event["kind"] == "joined"}


def _excluded(path: Path) -> dict[str, int]:
    """By name of whom the record says that it is excluded, the samples asked before."""
    asked, found = 0, {}
    for event in _events(path):
        if event["kind"] == "asked":
            asked = int(event["asked"])
        elif event["kind"] == "excluded":
            found[str(event["name"])] = asked
    return found


def _events(path: Path) -> list[dict[str, Any]]:
    """The whole lines of the record so far."""
    file = path / EVENTS
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]
