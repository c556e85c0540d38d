"""A page that names a test of ours by file and name names one that is there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ATTACKS = 15
"""Rows of the attack table."""


def test_every_test_that_a_page_names_is_there() -> None:
    named = {
        found for page in (ROOT / "docs").glob("*.md") for found in NAMED.findall(page.read_text())
    }
    files = {file: (ROOT / file).read_text() for file, _ in named}
    there = {
        (file, node.name)
        for file, text in files.items()
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
    }
    assert named - there == set()


def test_every_attack_has_a_test() -> None:
    page = (ROOT / "docs" / "faults.md").read_text()
    table = page.split("## The attack table")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == ATTACKS
    assert [row for row in rows if not NAMED.search(row)] == []
