"""Run several experiments over several seeds, and write tables and plots that compare them.

The same command with the same folder resumes an interrupted comparison: finished runs are read, an
unfinished one is resumed, and the others are started. A run that fails is reported, and does not
stop the others.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement

from fedkd.errors import FedkdError, RunsFailed, SettingsError
from fedkd.experiment import Experiment
from fedkd.process.plural import counted
from fedkd.server.report.records.run_folder import RESULT, load_run
from fedkd.server.run import console as server_console
from fedkd.server.run.manifest import MANIFEST, read_manifest
from fedkd.server.run.resume_hint import complete_interrupted_run
from fedkd.simulations.compare.comparison_page import write_comparison_page
from fedkd.simulations.compare.comparison_plots import comparison_plots
from fedkd.simulations.compare.parallel_runs import execute_in_parallel
from fedkd.simulations.compare.planned_run import CHECKPOINT, PlannedRun
from fedkd.simulations.compare.tables import (
    ComparisonRow,
    default_columns,
    markdown,
    select_columns,
    table,
    write_csv,
)
from fedkd.simulations.compare.variants import Variant, variants
from fedkd.simulations.engines.settings_check import check_settings
from fedkd.simulations.run import ENGINES, resume, run, runs_another_first


def compare(
    names: Sequence[str],
    seeds: int,
    engine: str,
    out: Path | None,
    overrides: Sequence[str] = (),
    methods: str | None = None,
    sweeps: Sequence[str] = (),
    columns: str | None = None,
    jobs: int = 1,
    drawn: bool = False,
) -> list[ComparisonRow]:
    """Run every variant with seeds 0 to ``seeds`` - 1 and write the comparison.

    Args:
        names: experiments, by path or name.
        seeds: >= 1.
        engine: as `fedkd.simulations.run.run` takes it.
        out: folder of the comparison, None for one under ``runs``; existing runs in it are kept.
        overrides: of every experiment, ``section.key=value``.
        methods: see `fedkd.simulations.compare.variants.variants`, as are
        sweeps: these.
        columns: of the tables, see `fedkd.simulations.compare.tables.select_columns`.
        drawn: whether each seed draws another partition too, and so other teachers.
        jobs: runs at a time, >= 1; of more than one, each is a process of its own.

    Raises:
        SettingsError: the folder of a run holds a run with other settings.
        RunsFailed: some runs failed; experiments whose seeds all finished are written and shown.
        FedkdError: whatever the first run raises.
    """
    if seeds < 1:
        raise SettingsError(f"--{'draws' if drawn else 'seeds'} {seeds}; expected 1 or more")
    if engine not in ENGINES:
        raise SettingsError(f"unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
    if jobs < 1 or (jobs > 1 and engine != "local"):
        raise SettingsError(
            f"--jobs {jobs} with --engine {engine}; expected 1 or more, and more than 1 with the "
            "local engine alone: a Flower simulation takes all processors by itself"
        )
    chosen = None if columns is None else select_columns(columns)
    path = out or Path("runs") / f"compare-{time.strftime('%Y%m%d-%H%M%S')}"
    rows = variants(names, methods, sweeps, overrides)
    # Check all before the first, or an error in the last would be reported hours later.
    plan = [
        PlannedRun(row, row.experiment(seed, drawn), path / row.folder(seed))
        for row in rows
        for seed in range(seeds)
    ]
    states = [_folder_state(planned, engine) for planned in plan]
    for planned in plan[::seeds]:
        if not runs_another_first(planned.experiment):  # which is checked when it has been run
            check_settings(planned.experiment)
    server_console.console.print(
        f"{counted(len(plan), 'run')} in {path}, {states.count('finished')} of them finished; "
        f"if it is interrupted, the same command with --out {path} resumes it",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    if jobs == 1:
        failed = _execute(plan, states, engine)
    else:
        failed = execute_in_parallel(plan, states, jobs)
    complete = [row for row in rows if not any(p.variant is row and p.path in failed for p in plan)]
    found = _write(complete, plan, path, chosen, drawn) if complete else []
    if failed:
        first = next(iter(failed))
        raise RunsFailed(
            f"{len(failed)} of {len(plan)} runs failed and their rows are left out; "
            f"the first, {first.name}: {failed[first]}"
        )
    return found


def _folder_state(planned: PlannedRun, engine: str) -> str:
    """State of the run in its folder: ``finished``, ``begun`` or ``nothing``."""
    path, expected = planned.path, planned.experiment.model_dump(mode="json")
    found: tuple[dict[str, Any], str] | None = None
    state = "nothing"
    if (path / RESULT).is_file():
        result = load_run(path).result
        found, state = (result.config, result.engine), "finished"
    elif (path / MANIFEST).is_file():
        manifest = read_manifest(path)
        found, state = (manifest.experiment.model_dump(mode="json"), manifest.engine), "begun"
    if found is None:
        return state
    config = _as_given(found[0], planned.experiment)
    if (config, found[1]) != (expected, engine):
        raise SettingsError(
            f"{path} holds a run of other settings{_difference(config, expected)}; "
            "name another folder with --out, or remove that one"
        )
    return state


def _as_given(config: dict[str, Any], given: Experiment) -> dict[str, Any]:
    """``config`` of a run as it was ``given``: without what was settled when it began."""
    grow = {**config["grow"], "student": given.grow.student}
    if runs_another_first(given) or _same_folder(grow["run"], given.grow.run):
        grow["run"] = given.grow.run
    return {**config, "grow": grow}


def _same_folder(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and Path(one).resolve() == Path(other).resolve()


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """The first key in which two configurations differ, as text."""
    for key in {**found, **expected}:
        old, new = found.get(key), expected.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if old != new:
                return f" (in {key}{_difference(old, new)})"
        elif old != new:
            return f" ({key}: {old!r}, now {new!r})"
    return ""


def _execute(
    plan: Sequence[PlannedRun], states: Sequence[str], engine: str
) -> dict[Path, FedkdError]:
    """Execute all runs that are not finished; returns the errors of failed ones, by folder."""
    failed: dict[Path, FedkdError] = {}
    for number, (planned, state) in enumerate(zip(plan, states, strict=True), start=1):
        if state == "finished":  # it may have been killed after its result was written
            complete_interrupted_run(planned.path)
            continue
        server_console.console.rule(f"run {number} of {len(plan)}: {planned.path.name}")
        try:
            if state == "begun":
                resume(planned.path)
            else:
                run(planned.experiment, engine, planned.path, checkpoint=CHECKPOINT)
        except FedkdError as error:
            if number == 1:  # an error of the first would mostly fail them all
                raise
            failed[planned.path] = error
            server_console.console.print(
                f"{planned.path.name} failed: {error}", soft_wrap=True, markup=False
            )
    return failed


def _write(
    rows: Sequence[Variant],
    plan: Sequence[PlannedRun],
    path: Path,
    columns: Sequence[str] | None,
    drawn: bool,
) -> list[ComparisonRow]:
    found = []
    for variant in rows:
        folders = tuple(planned.path for planned in plan if planned.variant is variant)
        # Read from the file, so that old and new runs are treated alike.
        results = tuple(load_run(folder).result.model_dump(mode="json") for folder in folders)
        found.append(ComparisonRow(variant.label, variant.family, results, folders, drawn))
    shown = default_columns(found) if columns is None else columns
    (path / "comparison.md").write_text(markdown(found, shown), encoding="utf-8")
    write_csv(found, path / "comparison.csv")
    plots = comparison_plots(found)
    for plot in plots:
        plot.save(path)
    page = write_comparison_page(found, shown, plots, path)
    terminal_table = table(found, shown, len(found[0].folders))
    # As wide as the table: a narrow terminal folds lines, and a file keeps all of them.
    wide_console = Console(width=10_000)
    wide_console.width = Measurement.get(wide_console, wide_console.options, terminal_table).maximum
    wide_console.print(terminal_table)
    plot_names = ", ".join(f"{plot.name}.svg and .png" for plot in plots)
    server_console.console.print(
        f"{path}: comparison.md, comparison.csv, {plot_names}\npage: {page}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    return found
