"""A ledger whose file was deleted or replaced answers nothing, and gets no fresh budget."""

import shutil
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch

from fedkd.client.ledger.ledger import NOT_RECORDED, Ledger
from fedkd.errors import DataError
from fedkd.privacy import Policy
from fedkd.protocol import Ask, Reason, Refusal

OPEN = Policy()


def ask(number: int) -> Ask:
    return Ask(torch.full((2, 1, 2, 2), number, dtype=torch.uint8))


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    for each in path.parent.glob("ledger.sqlite*"):
        each.unlink()


def delete_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def put_copy(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def put_new(path: Path) -> None:
    delete_all(path)
    Ledger(path).close()


@pytest.mark.parametrize("change", [delete, delete_all, delete_log, put_copy, put_new])
def test_nothing_is_answered_from_a_file_that_is_gone(
    change: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        assert ledger.charge(ask(1), OPEN) is None
        change(path)
        assert ledger.charge(ask(2), OPEN) == NOT_RECORDED
        assert ledger.charge(ask(1), OPEN) == NOT_RECORDED, "not even a repeat"
        assert ledger.charge_evaluation("a student", OPEN) == NOT_RECORDED
        refusal = Refusal(Reason.MALFORMED, "of no shape")
        assert ledger.record_refusal(ask(3), refusal) == NOT_RECORDED
        with pytest.raises(DataError, match="deleted or replaced"):
            ledger.dataset_accounts.register([b"an image"])
    assert "was deleted or replaced while it was in use" in caplog.text


def test_a_file_that_is_put_back_goes_on_with_its_charges(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        assert ledger.charge(ask(1), OPEN) is None
        path.rename(tmp_path / "aside")
        assert ledger.charge(ask(2), OPEN) == NOT_RECORDED
        (tmp_path / "aside").rename(path)
        assert ledger.charge(ask(2), OPEN) is None
        assert ledger.totals.samples == 4


def test_a_backup_has_every_row_also_those_in_the_write_ahead_log(tmp_path: Path) -> None:
    path, dest = tmp_path / "ledger.sqlite", tmp_path / "backup.sqlite"
    with closing(Ledger(path)) as ledger:
        for number in range(5):
            assert ledger.charge(ask(number), OPEN) is None
        shutil.copy(path, tmp_path / "plain.sqlite")
        with closing(Ledger(tmp_path / "plain.sqlite")) as plain:
            assert plain.totals.samples < 10, "why a backup is needed"
        with closing(Ledger(path)) as other:
            head = other.backup(dest)
        assert head == ledger.head()
        assert ledger.charge(ask(9), OPEN) is None, "and the ledger in use goes on"
        with pytest.raises(DataError, match="not there yet"):
            ledger.backup(dest)
    assert stat.S_IMODE(dest.stat().st_mode) == 0o600
    assert not list(tmp_path.glob("backup.sqlite-*")), "one file"
    assert not list(tmp_path.glob(".backup*"))
    with closing(Ledger(dest)) as restored:
        assert (restored.verify(head), restored.totals.samples) == (head, 10)
        assert restored.charge(ask(1), OPEN) is None
        assert restored.totals.samples == 10, "a repeat"


def test_a_ledger_that_fails_verification_is_not_backed_up(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
        for number in range(3):
            ledger.charge(ask(number), OPEN)
        ledger._db.execute("UPDATE entries SET count = 1 WHERE sequence = 2")
        with pytest.raises(DataError, match="row 2 was changed"):
            ledger.backup(tmp_path / "backup.sqlite")
    assert not (tmp_path / "backup.sqlite").exists()


def test_other_processes_may_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with closing(Ledger(path)) as ledger:
        for number in range(5):
            with closing(Ledger(path)) as other:
                assert other.charge(ask(2 * number), OPEN) is None
            assert ledger.charge(ask(2 * number + 1), OPEN) is None
        assert ledger.verify().sequence == 10
