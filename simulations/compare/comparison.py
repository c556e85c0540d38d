"""Experiments side by side over several seeds: tables and pictures. Knows no loop.

A comparison that was cut short is taken up again by the same command with the same folder: runs
that are finished there are read, one that was under way is resumed, and the others are begun. A run
that fails is told, and takes none of the others with it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement

from fedkd.errors import FedkdError, RunsFailed, SettingsError
from fedkd.experiment import Experiment
from fedkd.server.report.run_folder import RESULT
from fedkd.server.report.run_folder import load as load_run
from fedkd.server.run import console as show
from fedkd.server.run.manifest import MANIFEST, read_manifest
from fedkd.server.run.recorder import completed
from fedkd.simulations.compare.plots import draw_asked, draw_epsilon
from fedkd.simulations.compare.tables import Row, chosen, markdown, table, write_csv
from fedkd.simulations.compare.variants import Variant, variants
from fedkd.simulations.run import ENGINES, resume, run

CHECKPOINT = 60.0
"""Seconds between states of a run."""


@dataclass(frozen=True)
class Planned:
    """One run of a comparison."""

    variant: Variant
    experiment: Experiment
    path: Path


def compare(
    names: Sequence[str],
    seeds: int,
    engine: str,
    out: Path | None,
    overrides: Sequence[str] = (),
    methods: str | None = None,
    sweeps: Sequence[str] = (),
    columns: str | None = None,
) -> list[Row]:
    """Run every variant with seeds 0 to ``seeds`` - 1 and write the comparison.

    Args:
        names: experiments, by path or name.
        seeds: >= 1.
        engine: as `fedkd.simulations.run.run` takes it.
        out: folder of the comparison, None for one under ``runs``; what is there already is kept.
        overrides: of every experiment, ``section.key=value``.
        methods: see `fedkd.simulations.compare.variants.variants`, as are
        sweeps: these.
        columns: of the tables, see `fedkd.simulations.compare.tables.chosen`.

    Raises:
        SettingsError: a folder holds another run than the one it is for.
        RunsFailed: some did; what all seeds finished is written and shown.
        FedkdError: whatever the first run raises.
    """
    if seeds < 1:
        raise SettingsError(f"--seeds {seeds}; expected 1 or more")
    if engine not in ENGINES:
        raise SettingsError(f"unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
    chosen(columns)
    path = out or Path("runs") / f"compare-{time.strftime('%Y%m%d-%H%M%S')}"
    rows = variants(names, methods, sweeps, overrides)
    # All of them before the first, since a mistake in the last would be told hours later.
    plan = [
        Planned(row, row.experiment(seed), path / row.folder(seed))
        for row in rows
        for seed in range(seeds)
    ]
    there = [_there(planned, engine) for planned in plan]
    show.console.print(
        f"{len(plan)} runs in {path}, {there.count('finished')} of them finished; if this is cut "
        f"short, the same command with --out {path} goes on",
        soft_wrap=True,
    )
    failed = _carry_out(plan, there, engine)
    whole = [row for row in rows if not any(p.variant is row and p.path in failed for p in plan)]
    found = _write(whole, plan, path, columns) if whole else []
    if failed:
        first = next(iter(failed))
        raise RunsFailed(
            f"{len(failed)} of {len(plan)} runs failed and their rows are left out; "
            f"the first, {first.name}: {failed[first]}"
        )
    return found


def _there(planned: Planned, engine: str) -> str:
    """What a run's folder holds: ``finished``, ``begun`` or ``nothing`` of this very run."""
    path, asked = planned.path, planned.experiment.model_dump(mode="json")
    found: tuple[dict[str, Any], str] | None = None
    state = "nothing"
    if (path / RESULT).is_file():
        result = load_run(path).result
        found, state = (result.config, result.engine), "finished"
    elif (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        found, state = (manifest.experiment.model_dump(mode="json"), manifest.engine), "begun"
    if found is not None and found != (asked, engine):
        raise SettingsError(
            f"{path} holds a run of other settings{_difference(found[0], asked)}; "
            "name another folder with --out, or remove that one"
        )
    return state


def _difference(found: dict[str, Any], asked: dict[str, Any]) -> str:
    """The first key in which two configurations differ, in words."""
    for key in {**found, **asked}:
        then, now = found.get(key), asked.get(key)
        if isinstance(then, dict) and isinstance(now, dict):
            if then != now:
                return f" (in {key}{_difference(then, now)})"
        elif then != now:
            return f" ({key}: {then!r}, now {now!r})"
    return ""


def _carry_out(
    plan: Sequence[Planned], there: Sequence[str], engine: str
) -> dict[Path, FedkdError]:
    """Every run that is not finished; what those died of that failed, by their folders."""
    failed: dict[Path, FedkdError] = {}
    for number, (planned, state) in enumerate(zip(plan, there, strict=True), start=1):
        if state == "finished":  # it may have been killed between its result and its end
            completed(planned.path)
            continue
        show.console.rule(f"run {number} of {len(plan)}: {planned.path.name}")
        try:
            if state == "begun":
                resume(planned.path)
            else:
                run(planned.experiment, engine, planned.path, checkpoint=CHECKPOINT)
        except FedkdError as error:
            if number == 1:  # what ends the first would mostly end them all
                raise
            failed[planned.path] = error
            show.console.print(f"{planned.path.name} failed: {error}", soft_wrap=True)
    return failed


def _write(
    rows: Sequence[Variant], plan: Sequence[Planned], path: Path, columns: str | None
) -> list[Row]:
    found = []
    for variant in rows:
        folders = tuple(planned.path for planned in plan if planned.variant is variant)
        # As it stands in the file: a run that is read and one that was run just now are alike.
        results = tuple(load_run(folder).result.model_dump(mode="json") for folder in folders)
        found.append(Row(variant.label, variant.family, results, folders))
    promised = any(row.values("epsilon") for row in found)
    shown = chosen(columns, promised)
    (path / "comparison.md").write_text(markdown(found, shown), encoding="utf-8")
    write_csv(found, path / "comparison.csv")
    draw_asked(found, path)
    if promised:
        draw_epsilon(found, path)
    drawn = table(found, shown, len(found[0].folders))
    # As wide as it is: a narrow terminal folds lines, and a file keeps all of them.
    paper = Console(width=10_000)
    paper.width = Measurement.get(paper, paper.options, drawn).maximum
    paper.print(drawn)
    pictures = "comparison.svg and .png" + (", epsilon.svg and .png" if promised else "")
    show.console.print(f"{path}: comparison.md, comparison.csv, {pictures}", soft_wrap=True)
    return found
