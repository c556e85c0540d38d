"""A ledger that is gone, older than it was or another one is refused at the next start."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

from fedkd.client.ledger.hash_chain import RESET
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.ledger.reset_after_loss import reset_ledger
from fedkd.client.ledger.rollback_detection import LedgerBehindAnchorError, anchor_of
from fedkd.errors import SettingsError
from fedkd.privacy import Policy
from fedkd.protocol import Ask

OPEN = Policy()


def ask(number: int) -> Ask:
    return Ask(torch.full((2, 1, 2, 2), number, dtype=torch.uint8))


def charge(path: Path, *numbers: int) -> None:
    with closing(Ledger.anchored(path)) as ledger:
        for number in numbers:
            assert ledger.charge(ask(number), OPEN) is None


def delete_ledger(path: Path) -> None:
    for each in path.parent.glob("ledger.sqlite*"):
        each.unlink()


def refused(path: Path, message: str) -> None:
    with pytest.raises(LedgerBehindAnchorError, match=message) as caught:
        Ledger.anchored(path)
    assert "ledger reset OWNER.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    charge(tmp_path / "ledger.sqlite", 1, 2, 3)
    return tmp_path / "ledger.sqlite"


def test_a_deleted_ledger_grants_no_fresh_budget(path: Path) -> None:
    delete_ledger(path)
    refused(path, "it is missing, and had 3 rows")
    assert not path.exists(), "no empty one was made"


def test_an_older_copy_is_refused_with_what_it_lacks(path: Path) -> None:
    with closing(Ledger.anchored(path)) as ledger:
        ledger.backup(path.with_name("copy"))
    charge(path, 4, 5)
    delete_ledger(path)
    shutil.copy(path.with_name("copy"), path)
    refused(path, "it lacks the latest 2 of 5 rows")
    with closing(Ledger(path)) as ledger:  # without the anchor, with other charges
        for number in (7, 8, 9):
            assert ledger.charge(ask(number), OPEN) is None
    refused(path, "row 5 is another than the one that was written")


def test_a_ledger_of_somebody_else_is_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "ledger.sqlite"
    charge(other, *range(9))
    delete_ledger(path)
    shutil.copy(other, path)
    refused(path, "it is another one, and the one before had 3 rows")


def test_a_copy_with_all_rows_goes_on(path: Path) -> None:
    with closing(Ledger.anchored(path)) as ledger:
        ledger.backup(path.with_name("copy"))
    delete_ledger(path)
    shutil.copy(path.with_name("copy"), path)
    charge(path, 1, 4)
    with closing(Ledger.anchored(path)) as ledger:
        assert ledger.totals.samples == 8


def lose(anchor: Path) -> None:
    anchor.unlink()


def tear(anchor: Path) -> None:
    anchor.write_bytes(anchor.read_bytes()[:30])


def empty(anchor: Path) -> None:
    anchor.write_bytes(b"")


@pytest.mark.parametrize("change", [lose, tear, empty])
def test_an_anchor_that_says_nothing_refuses_nobody(
    path: Path, change: Callable[[Path], None]
) -> None:
    """And is made again; where the ledger is gone too, nothing can be known."""
    change(path.with_suffix(".head"))
    charge(path, 4)
    delete_ledger(path)
    refused(path, "had 4 rows")
    change(path.with_suffix(".head"))
    charge(path, 5)


KILLED = """
import os, signal, sys
from pathlib import Path
from fedkd.client.ledger import rollback_detection
from tests.client.ledger.test_rollback_detection import Ledger, ask, OPEN
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
ledger = Ledger.anchored(Path(sys.argv[1]))
rollback_detection.LedgerAnchor.advance = die
ledger.charge(ask(4), OPEN)
"""


def test_a_crash_between_the_two_writes_refuses_nobody(path: Path) -> None:
    """The row is on the disk, the anchor does not know of it yet."""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], cwd=root, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == -signal.SIGKILL
    known = anchor_of(path).noted()
    assert known is not None
    assert known.head.sequence == 3
    with closing(Ledger.anchored(path)) as ledger:
        assert ledger.head().sequence == 4
    known = anchor_of(path).noted()
    assert known is not None
    assert known.head.sequence == 4, "the next start caught up"


def test_processes_that_share_a_ledger_share_its_anchor(path: Path) -> None:
    with closing(Ledger.anchored(path)) as one, closing(Ledger.anchored(path)) as other:
        for number in range(10, 20):
            assert (one, other)[number % 2].charge(ask(number), OPEN) is None
    delete_ledger(path)
    refused(path, "had 13 rows")


def test_a_slow_process_does_not_take_the_anchor_back(path: Path) -> None:
    known = anchor_of(path).noted()
    assert known is not None
    anchor_of(path).advance(known.ledger, known.head._replace(sequence=1))
    assert anchor_of(path).noted() == known


def test_an_anchor_that_cannot_be_written_costs_no_charge(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    anchor = path.with_suffix(".head")
    anchor.unlink()
    anchor.mkdir()
    charge(path, 4)
    assert "ledger.head cannot be written" in caplog.text
    with closing(Ledger(path)) as ledger:
        assert ledger.totals.samples == 8


def test_a_reset_is_explicit_and_stands_in_the_ledger(path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing to reset"):
        reset_ledger(path)
    with closing(Ledger.anchored(path)) as ledger:
        ledger.backup(path.with_name("copy"))
    charge(path, 4, 5)
    delete_ledger(path)
    shutil.copy(path.with_name("copy"), path)
    fault, rows = reset_ledger(path)
    assert "it lacks the latest 2 of 5 rows" in fault
    assert rows == 4
    with closing(Ledger.anchored(path)) as ledger:
        last = [*ledger.entries()][-1]
        assert (last.kind, last.reason, last.cost) == (RESET, fault, 0)
        assert ledger.verify().sequence == 4
        assert (ledger.totals.samples, ledger.totals.refused) == (6, 0)
    delete_ledger(path)
    refused(path, "had 4 rows")
    assert reset_ledger(path)[1] == 1
    charge(path, 1)
