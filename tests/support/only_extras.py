"""Runs a command as where only some of fedkd's extras are installed: all else cannot be imported.

    python tests/support/only_extras.py EXTRAS MODULE [ARGUMENT ...]

EXTRAS are names with commas between them. What they and the core require, and what that requires in
turn, is read from pyproject.toml and from the metadata of what is installed.
"""

import re
import runpy
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def plain(name: str) -> str:
    """A distribution's name as metadata compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def asked_for(name: str, extra: str) -> list[Requirement]:
    """What a distribution requires with an extra, here; "" for what it always requires."""
    if name == "fedkd":
        options = PROJECT["optional-dependencies"]
        return [
            Requirement(line) for line in (options[extra] if extra else PROJECT["dependencies"])
        ]
    try:
        found = [Requirement(line) for line in requires(name) or ()]
    except PackageNotFoundError:  # for another system, or not needed here
        return []
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


def closure(extras: Sequence[str]) -> set[str]:
    """Every distribution that comes with these extras."""
    todo, seen = [("fedkd", ""), *(("fedkd", extra) for extra in extras)], set()
    while todo:
        pair = todo.pop()
        if pair in seen:
            continue
        seen.add(pair)
        for requirement in asked_for(*pair):
            todo += [(plain(requirement.name), extra) for extra in ("", *requirement.extras)]
    return {name for name, _ in seen}


class Hiding:
    """A finder of modules that finds nothing of some packages.

    It answers None, as where they are not installed: some packages ask without importing.
    """

    def __init__(self, finder: Any, hidden: set[str]) -> None:
        self._finder, self._hidden = finder, hidden

    def find_spec(self, name: str, *where: Any) -> Any:
        """What the finder finds, of what is not hidden."""
        hidden = name.partition(".")[0] in self._hidden
        return None if hidden else self._finder.find_spec(name, *where)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def hide_all_but(installed: set[str]) -> None:
    """Hide packages of other distributions from every import that follows."""
    hidden = {
        package
        for package, names in packages_distributions().items()
        if not {plain(name) for name in names} & installed
    }
    sys.meta_path[:] = [Hiding(finder, hidden) for finder in sys.meta_path]


if __name__ == "__main__":
    chosen, module, *arguments = sys.argv[1:]
    hide_all_but(closure([extra for extra in chosen.split(",") if extra]))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
