"""Inject faults into a federation of real processes: does it answer, charge and end correctly?

    python -m fedkd.simulations.faults [--faults N] [--seed S] --json FILE

Twenty-three kinds of fault, one or three of each in a run, hit a coordinator (``fedkd-server run``,
mutual TLS, join tokens, checkpoints), five honest institutions (``fedkd-client serve``), five
malicious ones, a liar and strangers, each a process of its own, during one run after another. At
the end the institutions' ledgers are compared with the coordinator's journals.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

FAILURES = ("hangs", "lost", "double_charges", "uncharged", "broken_ledgers", "deaths")
"""Figures that must be 0."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 where nothing hung or died, and no answer was lost or charged wrongly."""
    parser = argparse.ArgumentParser(prog="python -m fedkd.simulations.faults", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--faults", type=int, default=200, help="number of faults in all [200]")
    parser.add_argument("--seed", type=int, default=0, help="of kinds, times and victims [0]")
    parser.add_argument(
        "--references", type=int, default=2, help="runs without faults for each seed [2]"
    )
    parser.add_argument("--minutes", type=float, default=40, help="for all runs together [40]")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--keep", type=Path, help="folder for all files [a temporary one]")
    options = parser.parse_args(arguments)
    if options.faults < 1 or options.references < 0:
        parser.error("--faults must be 1 or more, --references 0 or more")
    with tempfile.TemporaryDirectory(prefix="fedkd-") as folder, _bar() as bar:
        task = bar.add_task("faults", total=options.faults)

        def on_progress(text: str, injected: int) -> None:
            bar.update(task, description=text, completed=injected)

        from fedkd.simulations.faults.campaign import FaultCampaign

        where = (options.keep or Path(folder)).resolve()
        campaign = FaultCampaign(
            where, options.faults, options.seed, options.references, options.minutes, on_progress
        )
        figures = campaign.run()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print("\n".join(table(figures)))
    return 1 if any(figures[what] for what in FAILURES) else 0


def table(figures: dict[str, Any]) -> list[str]:
    """The figures as Markdown."""
    lines = ["| fault | injected | noticed | recovered | required outcome |"]
    lines.append("|---|---|---|---|---|")
    for row in figures["kinds"]:
        cells = (row[key] for key in ("kind", "injected", "noticed", "recovered", "right"))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        f"{figures['injected']} faults in {figures['runs']} runs, {figures['ended']} of which "
        f"ended; coordinators were resumed {figures['resumed']} times, "
        f"{figures['stops_without_cause']} stops were not caused by a fault.",
        f"{figures['hangs']} hangs, {figures['deaths']} deaths, {figures['lost']} lost answers, "
        f"{figures['double_charges']} double charges, {figures['uncharged']} uncharged answers, "
        f"{figures['broken_ledgers']} broken ledgers; {figures['answers']:,} answers recorded, "
        f"{figures['ledger_rows']:,} rows of ledgers, {figures['seconds']:.0f} s.",
    ]
    if figures["mean_difference"] is not None:
        lines.append(
            f"{figures['within_2_points']} students are at most 2 points worse than without: "
            f"{100 * figures['mean_difference']:+.2f} points on average, "
            f"{100 * figures['worst_difference']:+.2f} at worst."
        )
    lines.append(
        f"Honest institutions were left out at the end of {figures['honest_left_out']} runs."
    )
    for what in ("unnoticed", "not_injected"):
        lines += [f"{what.replace('_', ' ')}: {line}" for line in figures[what]]
    for what, runs in (("without faults", "calm_runs"), ("with faults", "each_run")):
        students = ", ".join(_student(row) for row in figures[runs])
        lines.append(f"Students of runs {what} (seed): {students or 'none'}.")
    return lines


def _student(row: dict[str, Any]) -> str:
    return f"{100 * row['accuracy']:.1f}% ({row['seed']})" if row["ended"] else "none"


def _bar() -> Progress:
    columns = TextColumn("{task.description:<44}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeElapsedColumn())


if __name__ == "__main__":
    sys.exit(main())
