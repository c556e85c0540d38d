"""What an audit prints and leaves behind. Knows the audits, and proves nothing itself."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from fedkd.client.institution import holding
from fedkd.data.datasets import open_data
from fedkd.experiment import Experiment
from fedkd.server.run.console import console
from fedkd.simulations.audit import canaries as of_canaries
from fedkd.simulations.audit import membership_inference as of_members
from fedkd.simulations.audit import release_mechanisms as of_mechanisms

CAVEAT = (
    "An audit proves violations only: where it finds none, that is no guarantee, since a better "
    "attack may find what this one missed."
)
"""The last sentence of every audit."""

SHOWN = 0.01
"""False positive rate that a table has room for; the figures have others too."""


class Written:
    """A folder for an audit, and the figures that go there once it is done.

    Args:
        kind: which audit.
        experiment: resolved.
        out: its folder; None makes one under ``runs``.
        path: of the figures; None puts them into the folder.
    """

    def __init__(
        self, kind: str, experiment: Experiment, out: Path | None, path: Path | None
    ) -> None:
        self.kind, self.experiment = kind, experiment
        self.folder = out or Path("runs") / f"audit-{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.path = path or self.folder / f"{kind}.json"
        self.figures: dict[str, Any] = {}
        self._began = time.monotonic()

    def __enter__(self) -> "Written":
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Sums depend on it, and several threads are no faster on models of this size.
        torch.set_num_threads(self.experiment.student.threads)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.figures:
            return
        whole = {
            "audit": self.kind,
            "experiment": self.experiment.name,
            "seconds": round(time.monotonic() - self._began, 1),
            **self.figures,
            "caveat": CAVEAT,
        }
        self.path.write_text(json.dumps(whole, indent=2, allow_nan=False) + "\n")
        console.print(f"{whole['seconds']} s; figures: {self.path}", highlight=False)
        console.print(CAVEAT, highlight=False)


def _bars() -> Progress:
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def _update(bars: Progress, bar: TaskID, completed: int, total: int) -> None:
    bars.update(bar, completed=completed, total=total)


def _print(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, box=None, title_justify="left")
    for place, column in enumerate(head):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def mechanism(written: Written, trials: int, error: float, planted: bool) -> int:
    """Audit every mechanism; 1 where a claim is proven wrong, or a planted bug is not found."""
    private = holding(written.experiment, 0).private
    planned = [(r, "all") for r in of_mechanisms.releases(private)]
    if planted:
        planned += [(r, "half") for r in of_mechanisms.releases(private, noise=0.5)]
    found = []
    with _bars() as bars:
        for release, noise in planned:
            bar = bars.add_task(f"{release.name}", total=2 * trials)
            finding = of_mechanisms.audit(
                release, trials, error / len(planned), partial(bars.advance, bar)
            )
            found.append((noise, finding))
    head = ("release", "noise", "claim", "lower bound", "verdict")
    rows = [
        (
            finding.name,
            noise,
            f"{finding.claim:.3f}",
            f"{finding.bound.epsilon:.3f}",
            "VIOLATION" if finding.violated else "none found",
        )
        for noise, finding in found
    ]
    title = (
        f"epsilon at delta {of_mechanisms.DELTA:g}, {trials:,} releases of each input, all rows "
        f"together at {1 - error:.1%} confidence"
    )
    _print(title, head, rows)
    written.figures = {
        "error": error,
        "trials": trials,
        "findings": [{"noise": n, **asdict(f), "violated": f.violated} for n, f in found],
    }
    return int(any(f.violated == (noise == "all") for noise, f in found))


def membership(written: Written, worlds: int, images: int, label_noise: float) -> None:
    """Attack answers and student; table, figures and picture."""
    # Matplotlib takes a while, and the other audits draw nothing.
    from fedkd.simulations.audit.plots import draw

    experiment = written.experiment
    with _bars() as bars:
        tasks = {
            of_members.label(e): bars.add_task(f"federations, {of_members.label(e)}", total=worlds)
            for e in of_members.kinds(experiment)
        }
        attacked, right = of_members.audit(
            experiment, worlds, images, label_noise, lambda kind: bars.advance(tasks[kind])
        )
    rows = [
        (
            f"{a.release}, {of_members.label(a.epsilon)}",
            a.attack,
            str(a.area),
            str(a.low[SHOWN]),
        )
        for a in attacked
    ]
    title = (
        f"{experiment.name}: {worlds} federations of {experiment.institutions.count}, {images} "
        f"images, each in with chance 1/2, {label_noise:.0%} of labels wrong; 95% intervals"
    )
    _print(title, ("release", "attack", "AUC", f"TPR at {SHOWN:.0%} FPR"), rows)
    for name, value in right.items():
        console.print(f"accuracy: {name}: {value:.1%}", highlight=False)
    draw(attacked, written.folder)
    console.print(f"picture: {written.folder}/membership.svg, .png", highlight=False)
    written.figures = {
        "worlds": worlds,
        "images": images,
        "label_noise": label_noise,
        "accuracy": right,
        "attacks": [_plain(a) for a in attacked],
    }


def _plain(attacked: of_members.Attacked) -> dict[str, Any]:
    return {
        "release": attacked.release,
        "epsilon": attacked.epsilon,
        "attack": attacked.attack,
        "auc": asdict(attacked.area),
        "tpr_at_fpr": {f"{fpr:g}": asdict(e) for fpr, e in attacked.low.items()},
    }


def canaries(written: Written, images: int, guesses: int, error: float) -> int:
    """Train among canaries, without differential privacy and with it; 1 at a violation."""
    experiment = written.experiment
    held = holding(experiment, 0)
    how = of_canaries.Canary(held.model, images, guesses, error, experiment.privacy.delta)
    data = open_data(held.data, held.root)
    found = []
    with _bars() as bars:
        for settings in (held.teach, held.private):
            if settings is None:
                continue
            name = "no DP" if settings is held.teach else f"ε = {experiment.privacy.epsilon:g}"
            bar = bars.add_task(f"teacher, {name}", total=settings.epochs)
            found.append(
                of_canaries.audit(
                    how,
                    data,
                    settings,
                    np.random.default_rng(experiment.seed),
                    partial(_update, bars, bar),
                )
            )
    rows = [
        (
            "no DP" if f.claim is None else "DP-SGD",
            "none" if f.claim is None else f"{f.claim:.3f}",
            f"{f.bound:.3f}",
            f"{f.right} of {f.guesses}",
            f"{f.accuracy:.1%}",
            "VIOLATION" if f.violated else "" if f.claim is None else "none found",
        )
        for f in found
    ]
    head = ("teacher", "claim", "lower bound", "right guesses", "test accuracy", "verdict")
    title = (
        f"epsilon at delta {how.delta:g}, {images} mislabelled canaries, {1 - error:.0%} confidence"
    )
    _print(title, head, rows)
    written.figures = {"teachers": [{**asdict(f), "violated": f.violated} for f in found]}
    return int(any(f.violated for f in found))
