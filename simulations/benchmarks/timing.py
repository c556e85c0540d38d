"""Measure and compare the time of several implementations, interleaved; print tables, write JSON.

A shared machine is faster at one moment than at another, so the alternatives take turns of a few
calls each: load affects all of them alike, and ratios hold where seconds do not. Linux only, for
the clocks of other processes.
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
"""Console of the tables; in a file or a pipe, lines have a fixed length."""


@dataclass(frozen=True)
class Alternative:
    """One of several implementations that are compared.

    Attributes:
        name: of its row.
        call: runs it once, or ``unit`` times where several are done together.
        child_pids: processes whose CPU time counts beside our own.
        unit: number of runs in one call.
        calls: in one turn.
    """

    name: str
    call: Callable[[], object]
    child_pids: tuple[int, ...] = ()
    unit: int = 1
    calls: int = 3


@dataclass(frozen=True)
class Timing:
    """Measured times of one alternative.

    Attributes:
        median: seconds of one run.
        p10: tenth percentile in seconds; close to an idle machine.
        cpu: CPU seconds of one run, child processes included; the median over turns.
        samples: number of measured calls.
    """

    median: float
    p10: float
    cpu: float
    samples: int


@dataclass
class _Samples:
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def measure_interleaved(
    alternatives: Sequence[Alternative], seconds: float, warm_up: int = 2, minimum: int = 3
) -> dict[str, Timing]:
    """Measure the alternatives in turns until ``seconds`` have passed; returns times by name.

    Args:
        alternatives: with different names.
        seconds: after which no further round of turns starts.
        warm_up: rounds that are not counted.
        minimum: counted rounds, however long they take.
    """
    for _ in range(warm_up):
        for alternative in alternatives:
            alternative.call()
    samples = {alternative.name: _Samples() for alternative in alternatives}
    end, rounds = time.monotonic() + seconds, 0
    while rounds < minimum or time.monotonic() < end:
        rounds += 1
        for alternative in alternatives:
            _measure_once(alternative, samples[alternative.name])
    return {name: _timing(each) for name, each in samples.items()}


def _measure_once(alternative: Alternative, samples: _Samples) -> None:
    processes = (os.getpid(), *alternative.child_pids)
    before = sum(map(cpu_seconds, processes))
    for _ in range(alternative.calls):
        began = time.perf_counter()
        alternative.call()
        samples.seconds.append((time.perf_counter() - began) / alternative.unit)
    cpu = sum(map(cpu_seconds, processes)) - before
    samples.cpu.append(cpu / alternative.calls / alternative.unit)


def _timing(samples: _Samples) -> Timing:
    ordered = sorted(samples.seconds)
    return Timing(
        median=statistics.median(ordered),
        p10=ordered[len(ordered) // 10],
        cpu=statistics.median(samples.cpu),
        samples=len(ordered),
    )


def cpu_seconds(process: int) -> float:
    """CPU seconds that a process has used so far, in all its threads."""
    # The kernel's clock of a process counts nanoseconds; what /proc tells is in hundredths of a
    # second, more than most of what is measured here.
    return time.clock_gettime(~process << 3 | 2)


def ratio(figures: Mapping[str, Timing], above: str, below: str, of: str = "p10") -> float:
    """Time of alternative ``above`` over that of ``below``, in ``median``, ``p10`` or ``cpu``."""
    return float(round(getattr(figures[above], of) / getattr(figures[below], of), 3))


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: first column aligned to the left, all others to the right."""
    table = Table(title=title, box=None, title_justify="left")
    for place, column in enumerate(head):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def timing_rows(figures: Mapping[str, Timing], to: str) -> list[tuple[str, ...]]:
    """Rows for `print_table`: times in milliseconds, ratios to the alternative named ``to``."""
    return [
        (
            name,
            *(f"{1e3 * value:.3g}" for value in (each.median, each.p10, each.cpu)),
            *(f"{ratio(figures, name, to, of):.2f}" for of in ("median", "p10", "cpu")),
            str(each.samples),
        )
        for name, each in figures.items()
    ]


TIMING_HEADER = ("ms", "median", "p10", "CPU", "x median", "x p10", "x CPU", "samples")
"""Header of the rows of `timing_rows`."""


def write_json(figures: Mapping[str, Any], path: Path | None) -> None:
    """Write figures to a JSON file, where one is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
