"""Measuring several ways to do one thing, side by side. Knows nothing of what they do.

A machine that others use is faster at one moment than at another, so the ways take turns of a few
calls each: what happens to the machine happens to all of them alike, and ratios hold where seconds
do not. Linux only, for the clocks of other processes.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(width=None if os.isatty(1) else 100, highlight=False)
"""Where tables go; a file or a pipe has lines of one length."""


@dataclass(frozen=True)
class Way:
    """One way to do what is measured.

    Attributes:
        name: under which its figures stand.
        call: does it once, or ``unit`` times where several are done together.
        partners: process ids whose CPU time counts beside our own.
        unit: how many times one call does it.
        calls: in one turn.
    """

    name: str
    call: Callable[[], object]
    partners: tuple[int, ...] = ()
    unit: int = 1
    calls: int = 3


@dataclass(frozen=True)
class Figure:
    """What one way came to.

    Attributes:
        median: seconds of one time.
        p10: seconds that a tenth of the times did not take; near to what a quiet machine takes.
        cpu: CPU seconds of one time, partners' included; the median over turns.
        samples: how many times were taken.
    """

    median: float
    p10: float
    cpu: float
    samples: int


@dataclass
class _Taken:
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def side_by_side(
    ways: Sequence[Way], seconds: float, warm_up: int = 2, least: int = 3
) -> dict[str, Figure]:
    """Figures of each way by name, taken in turns until ``seconds`` have passed.

    Args:
        ways: of different names.
        seconds: after which no further round of turns begins.
        warm_up: rounds before anything is counted.
        least: rounds that are counted, whatever they take.
    """
    for _ in range(warm_up):
        for way in ways:
            way.call()
    taken = {way.name: _Taken() for way in ways}
    end, rounds = time.monotonic() + seconds, 0
    while rounds < least or time.monotonic() < end:
        rounds += 1
        for way in ways:
            _turn(way, taken[way.name])
    return {name: _figure(each) for name, each in taken.items()}


def _turn(way: Way, taken: _Taken) -> None:
    processes = (os.getpid(), *way.partners)
    before = sum(map(cpu_seconds, processes))
    for _ in range(way.calls):
        began = time.perf_counter()
        way.call()
        taken.seconds.append((time.perf_counter() - began) / way.unit)
    spent = sum(map(cpu_seconds, processes)) - before
    taken.cpu.append(spent / way.calls / way.unit)


def _figure(taken: _Taken) -> Figure:
    ordered = sorted(taken.seconds)
    return Figure(
        median=statistics.median(ordered),
        p10=ordered[len(ordered) // 10],
        cpu=statistics.median(taken.cpu),
        samples=len(ordered),
    )


def cpu_seconds(process: int) -> float:
    """CPU time that a process has used so far, all its threads together, in seconds."""
    # The kernel's clock of a process counts nanoseconds; what /proc tells is in hundredths of a
    # second, more than most of what is measured here.
    return time.clock_gettime(~process << 3 | 2)


def ratio(figures: Mapping[str, Figure], above: str, below: str, of: str = "p10") -> float:
    """How many times what ``below`` does way ``above`` takes: in ``median``, ``p10`` or ``cpu``."""
    return float(round(getattr(figures[above], of) / getattr(figures[below], of), 3))


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: words to the left in the first column, figures to the right in the others."""
    table = Table(title=title, box=None, title_justify="left")
    for place, column in enumerate(head):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def rows_of(figures: Mapping[str, Figure], to: str) -> list[tuple[str, ...]]:
    """Rows for `show` under `HEAD`: figures in milliseconds, ratios to the way named ``to``."""
    return [
        (
            name,
            *(f"{1e3 * value:.3g}" for value in (each.median, each.p10, each.cpu)),
            *(f"{ratio(figures, name, to, of):.2f}" for of in ("median", "p10", "cpu")),
            str(each.samples),
        )
        for name, each in figures.items()
    ]


HEAD = ("ms", "median", "p10", "CPU", "x median", "x p10", "x CPU", "samples")
"""Over the columns of `rows_of`."""


def write(figures: Mapping[str, Any], path: Path | None) -> None:
    """Leave figures in a file as JSON, where one is named."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
