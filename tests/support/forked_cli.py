"""The command ``fedkd`` in a process of its own, forked from one that has imported everything.

A new interpreter takes ten seconds to import what a run needs; a forked one takes none. Tests of
what is imported, and from where, start interpreters of their own.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedkd.simulations.checks.resume import FORKSERVER, prepare_forkserver


def fedkd(
    words: Sequence[str],
    folder: Path,
    *,
    site: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 280,
) -> str:
    """What the command prints, once it has ended well.

    Args:
        words: after ``fedkd``.
        folder: the working directory.
        site: folder of packages, as if it were installed.
        environment: variables that are set besides.
        timeout: seconds.
    """
    prepare_forkserver()
    output = folder / "printed.txt"
    changes = dict(environment or {})
    process = FORKSERVER.Process(target=_main, args=(tuple(words), folder, site, changes, output))
    process.start()
    process.join(timeout)
    late = process.exitcode is None
    process.kill()
    process.join()
    printed = output.read_text()
    assert not late, f"`fedkd {' '.join(words)}` ran for more than {timeout} s: {printed}"
    assert process.exitcode == 0, printed
    return printed


def _main(
    words: tuple[str, ...], folder: Path, site: Path | None, changes: dict[str, str], output: Path
) -> None:
    with output.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(folder)
    os.environ.update(changes, COLUMNS="200", OMP_NUM_THREADS="1")
    if site is not None:
        sys.path.insert(0, str(site))
        os.environ["PYTHONPATH"] = str(site)
    sys.argv = ["fedkd", *words]
    from fedkd.simulations import cli

    cli.main()
