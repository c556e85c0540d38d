"""Run an audit: print its table, write its figures as JSON, draw its plots."""

import json
import sys
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

from fedkd.client.institution import simulated_assets
from fedkd.client.monitoring.membership_text import (
    format_membership_audit,
    membership_audit_fields,
)
from fedkd.data.datasets import open_data
from fedkd.experiment import Experiment
from fedkd.privacy.score_export import export_scores
from fedkd.server.run.console import console
from fedkd.simulations.audit import canaries as canary_audit
from fedkd.simulations.audit import finished_run
from fedkd.simulations.audit import membership_inference as membership_audit
from fedkd.simulations.audit import release_mechanisms as mechanism_audit

CAVEAT = (
    "An audit proves violations only: where it finds none, that is no guarantee, since a better "
    "attack may find what this one missed."
)
"""Printed at the end of every audit."""

TABLE_FPR = 0.01
"""False positive rate that is shown in the table; the JSON file has others too."""


class AuditOutput:
    """The folder of an audit, and the JSON file that is written when it is done.

    Args:
        kind: name of the audit.
        experiment: resolved.
        out: its folder; None makes one under ``runs``.
        path: of the JSON file; None puts it into the folder.
    """

    def __init__(
        self, kind: str, experiment: Experiment, out: Path | None, path: Path | None
    ) -> None:
        self.kind, self.experiment = kind, experiment
        self.folder = out or Path("runs") / f"audit-{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.path = path or self.folder / f"{kind}.json"
        self.figures: dict[str, Any] = {}
        self._began = time.monotonic()

    def __enter__(self) -> "AuditOutput":
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


def _progress_bars() -> Progress:
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console)


def _set_progress(bars: Progress, bar: TaskID, completed: int, total: int) -> None:
    bars.update(bar, completed=completed, total=total)


def _print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, box=None, title_justify="left")
    for place, column in enumerate(head):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def run_mechanism_audit(output: AuditOutput, trials: int, error: float, planted: bool) -> int:
    """Audit all mechanisms; 1 where a claim is refuted, or a planted bug is not found."""
    private = simulated_assets(output.experiment, 0).dp_training
    planned = [(r, "all") for r in mechanism_audit.audited_mechanisms(private)]
    if planted:
        planned += [(r, "half") for r in mechanism_audit.audited_mechanisms(private, noise=0.5)]
    found = []
    with _progress_bars() as bars:
        for release, noise in planned:
            bar = bars.add_task(f"{release.name}", total=2 * trials)
            finding = mechanism_audit.audit_mechanism(
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
        f"epsilon at delta {mechanism_audit.DELTA:g}, {trials:,} releases of each input, all rows "
        f"together at {1 - error:.1%} confidence"
    )
    _print_table(title, head, rows)
    output.figures = {
        "error": error,
        "trials": trials,
        "findings": [{"noise": n, **asdict(f), "violated": f.violated} for n, f in found],
    }
    return int(any(f.violated == (noise == "all") for noise, f in found))


def run_membership_audit(
    output: AuditOutput, worlds: int, images: int, label_noise: float, scores: Path | None = None
) -> None:
    """Attack answers and student; write table, figures and plot, and margins where named."""
    # Matplotlib takes a while, and the other audits draw nothing.
    from fedkd.simulations.audit.plots import plot_roc

    experiment = output.experiment
    with _progress_bars() as bars:
        tasks = {
            membership_audit.epsilon_label(e): bars.add_task(
                f"federations, {membership_audit.epsilon_label(e)}", total=worlds
            )
            for e in membership_audit.audited_epsilons(experiment)
        }
        found = membership_audit.audit_membership(
            experiment, worlds, images, label_noise, lambda kind: bars.advance(tasks[kind])
        )
    results, accuracies = found.attacks, found.accuracies
    if scores is not None:
        export_scores(scores, found.columns)
    rows = [
        (
            f"{a.release}, {membership_audit.epsilon_label(a.epsilon)}",
            a.attack,
            str(a.auc),
            str(a.tpr_at_fpr[TABLE_FPR]),
        )
        for a in results
    ]
    title = (
        f"{experiment.name}: {worlds} federations of {experiment.institutions.count}, {images} "
        f"images, each in with chance 1/2, {label_noise:.0%} of labels wrong; 95% intervals"
    )
    _print_table(title, ("release", "attack", "AUC", f"TPR at {TABLE_FPR:.0%} FPR"), rows)
    for name, value in accuracies.items():
        console.print(f"accuracy: {name}: {value:.1%}", highlight=False)
    plot_roc(results, output.folder)
    console.print(f"picture: {output.folder}/membership.svg, .png", highlight=False)
    output.figures = {
        "worlds": worlds,
        "images": images,
        "label_noise": label_noise,
        "accuracy": accuracies,
        "attacks": [_as_json(a) for a in results],
    }


def run_finished_audit(
    path: Path, count: int, seed: int, scores: Path | None, json_path: Path | None
) -> None:
    """Attack a finished run or its student; print what is found."""
    audits = finished_run.audit_finished_run(path, count, seed, _tell_model)
    for audit in audits:
        print(format_membership_audit(audit, CAVEAT))
        print()
    if scores is not None:
        parts = [{"model": np.repeat(a.subject, len(a.is_member)), **a.columns} for a in audits]
        shared = [name for name in parts[0] if all(name in part for part in parts)]
        export_scores(
            scores, {name: np.concatenate([part[name] for part in parts]) for name in shared}
        )
    if json_path is not None:
        whole = {"audit": "membership", "run": str(path), "caveat": CAVEAT}
        models = [membership_audit_fields(audit) for audit in audits]
        json_path.write_text(json.dumps({**whole, "models": models}, indent=2) + "\n")


def _tell_model(name: str) -> None:
    print(f"fedkd: attacking {name} ...", file=sys.stderr)


def _as_json(result: membership_audit.AttackResult) -> dict[str, Any]:
    return {
        "release": result.release,
        "epsilon": result.epsilon,
        "attack": result.attack,
        "auc": asdict(result.auc),
        "tpr_at_fpr": {f"{fpr:g}": asdict(e) for fpr, e in result.tpr_at_fpr.items()},
    }


def run_canary_audit(output: AuditOutput, images: int, guesses: int, error: float) -> int:
    """Train with canaries, without differential privacy and with it; 1 at a violation."""
    experiment = output.experiment
    assets = simulated_assets(experiment, 0)
    attack = canary_audit.CanaryAttack(
        assets.model, images, guesses, error, experiment.privacy.delta
    )
    data = open_data(assets.data, assets.root)
    found = []
    with _progress_bars() as bars:
        for settings in (assets.training, assets.dp_training):
            if settings is None:
                continue
            name = "no DP" if settings is assets.training else f"ε = {experiment.privacy.epsilon:g}"
            bar = bars.add_task(f"teacher, {name}", total=settings.epochs)
            found.append(
                canary_audit.audit_canaries(
                    attack,
                    data,
                    settings,
                    np.random.default_rng(experiment.seed),
                    partial(_set_progress, bars, bar),
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
        f"epsilon at delta {attack.delta:g}, {images} mislabelled canaries, "
        f"{1 - error:.0%} confidence"
    )
    _print_table(title, head, rows)
    output.figures = {"teachers": [{**asdict(f), "violated": f.violated} for f in found]}
    return int(any(f.violated for f in found))
