"""docs/tables.md, run as its reader would: its files and commands, but for a free port."""

import json
import re
from pathlib import Path

import pytest

from fedkd.simulations.rehearsal.free_ports import free_ports
from tests.support.forked_shell import run_in_shell

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tables.md"
FILE = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
ADDRESS = "127.0.0.1:9092"


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder after all commands of the page, and what they printed."""
    folder = tmp_path_factory.mktemp("tables")
    address = f"127.0.0.1:{free_ports(1)[0]}"
    for name, text in FILE.findall(PAGE.read_text()):
        (folder / name).write_text(text.replace(ADDRESS, address))
    (commands,) = COMMANDS.findall(PAGE.read_text())
    assert ADDRESS in commands
    return folder, run_in_shell(commands.replace(ADDRESS, address), folder)


def test_the_card_shows_ranges_and_levels(printed: tuple[Path, str]) -> None:
    assert "age: 18 to 100; ward: general, intensive, burns; fever: 36 to 41" in printed[1]
    assert "stay in days: 0 to 70" in printed[1]


def test_a_student_comes_out_that_is_good_at_both_hospitals(printed: tuple[Path, str]) -> None:
    found = re.findall(r"^rows (\d+), r2 (\S+), rmse (\S+), mae (\S+)$", printed[1], re.M)
    assert [rows for rows, *_ in found] == ["150", "150"]
    assert all(float(r2) > 0.9 for _, r2, *_ in found), found
    assert all(float(rmse) < 3 for *_, rmse, _ in found), found


def test_both_were_asked_by_recipe_and_the_ledger_shows_it(printed: tuple[Path, str]) -> None:
    folder, text = printed
    assert "2,000 of 2,000 samples are spent, 0 queries were refused" in text
    result = json.loads((folder / "run" / "result.json").read_text())
    assert {teacher["name"] for teacher in result["teachers"]} == {"north", "south"}
    assert all(teacher["recipes"] > 0 for teacher in result["teachers"])
    assert all(teacher["bytes_sent"] < 2000 * 3 for teacher in result["teachers"])
