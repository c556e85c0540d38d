"""Wheels of this tree, built offline and beside it, for tests of what is installed."""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
WHOLE = ("pyproject.toml", "README.md", "LICENSE", "fedkd", "server", "client", "simulations")
"""What a wheel is built from."""
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


def wheel(folder: Path, sources: Iterable[str] = WHOLE) -> Path:
    """Build the wheel of these files and folders of the tree, in an empty folder."""
    tree, made = folder / "tree", folder / "made"
    tree.mkdir(parents=True)
    made.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in sources:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, tree / name)
    return _built(BUILD, tree, made)


def wheel_of_sdist(tree: Path, folder: Path) -> Path:
    """Build the source distribution of a tree, and of that a wheel, in an empty folder."""
    for name in ("sdist", "unpacked", "wheel"):
        (folder / name).mkdir(parents=True)
    shutil.unpack_archive(_built(SDIST, tree, folder / "sdist"), folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return _built(BUILD, unpacked, folder / "wheel")


def _built(code: str, tree: Path, made: Path) -> Path:
    """The one file that the build back end leaves in an empty folder."""
    command = [sys.executable, "-c", code, str(made)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = made.iterdir()
    return built
