"""Packages of extras that are not installed: which extra brings them."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from fedkd.process.crash_log import report_unexpected
from fedkd.process.missing_packages import EXTRAS, missing_package

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = ("fedkd", "server", "client", "simulations")
CHECKOUT = {"grpc_tools", "mlserver", "setuptools"}
"""Imported by what stays in a checkout, or in an environment of its own."""


def plain(requirement: str) -> str:
    """The name of a distribution, without versions and extras."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-")


def brought(extra: str) -> set[str]:
    """Distributions that an extra asks for, also by other extras of ours."""
    found = set()
    for line in PROJECT["optional-dependencies"][extra]:
        if line.startswith("fedkd["):
            found |= {name for e in line[6:-1].split(",") for name in brought(e)}
        else:
            found.add(plain(line))
    return found


@pytest.mark.parametrize("package", sorted(set(EXTRAS) - {"ray"}))
def test_the_extra_brings_the_package(package: str) -> None:
    names = {name.lower().replace("_", "-") for name in packages_distributions()[package]}
    assert names & brought(EXTRAS[package])


def test_every_package_outside_the_core_is_listed() -> None:
    known, core = packages_distributions(), {plain(line) for line in PROJECT["dependencies"]}
    imported = {
        name.partition(".")[0]
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in names_of(node)
    }
    outside = {
        package
        for package in imported - sys.stdlib_module_names - {"fedkd", "google"} - CHECKOUT
        if not {d.lower().replace("_", "-") for d in known.get(package, [package])} & core
    }
    assert outside <= set(EXTRAS)


def names_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [name.name for name in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        return [node.module]
    return []


def test_a_command_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    error = ModuleNotFoundError("No module named 'flwr.app'", name="flwr.app")
    assert report_unexpected("fedkd", error) == 2
    assert capsys.readouterr().err == "fedkd: flwr is not installed; pip install 'fedkd[flower]'\n"


@pytest.mark.parametrize(
    "error",
    [ModuleNotFoundError("no", name="their_module"), ModuleNotFoundError("no"), ValueError("flwr")],
)
def test_other_errors_are_not_claimed(error: Exception) -> None:
    assert missing_package(error) is None
