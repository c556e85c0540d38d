"""Run or resume one experiment: start its engine, evaluate the student, write the report."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedkd.errors import FedkdError, SettingsError
from fedkd.experiment import Experiment, Grow, load_experiment
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.server.drivers.flower_driver import RunOutcome
from fedkd.server.experiment_check import check_experiment
from fedkd.server.report.live.background_server import live_page
from fedkd.server.report.records.run_folder import RESULT, check_unused, load_result
from fedkd.server.run import console as server_console
from fedkd.server.run.checkpoint import REPLIES, Checkpoint
from fedkd.server.run.earlier_run import grown_from, with_earlier_student
from fedkd.server.run.manifest import MANIFEST, read_manifest
from fedkd.server.run.resume_hint import complete_interrupted_run, resume_hint
from fedkd.server.run.run_recorder import RunRecorder, Traffic, traffic_of
from fedkd.server.run.tensorboard_log import check_tensorboard, tensorboard_log
from fedkd.simulations.console import print_experiment
from fedkd.simulations.engines.evaluation import evaluate, load_dataset, student_score
from fedkd.simulations.engines.examination import examine
from fedkd.simulations.engines.flower_simulation import simulate
from fedkd.simulations.engines.local import LocalInstitutions
from fedkd.simulations.engines.settings_check import check_federation, check_settings
from fedkd.wire import Replay

ENGINES = ("local", "simulation")


def run(
    experiment: Experiment,
    engine: str,
    out: Path | None,
    *,
    record: bool = False,
    replay: Path | None = None,
    checkpoint: float = 0.0,
    live: int | None = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Run an experiment; returns what stands in its ``result.json``.

    Args:
        experiment: resolved.
        engine: one of `ENGINES`.
        out: folder of the run, empty or not there yet; None makes one under ``runs``.
        record: store every reply in the folder.
        replay: folder of a recorded run, whose replies are used instead of asking institutions.
        checkpoint: seconds between checkpoints; 0 writes none, unless the run is recorded.
        live: port on which the page is served while the run goes on; None: not at all.
        tensorboard: write ``tensorboard/`` too.

    Raises:
        FedkdError: whatever went wrong, in one line.
    """
    if engine not in ENGINES:
        raise SettingsError(f"unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
    path = out or Path("runs") / f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    # What cannot be is refused before anything is printed, started or trained.
    check_unused(path)
    if replay is None:
        experiment = after_first_run(experiment, engine, path, checkpoint)
    experiment = with_earlier_student(experiment)
    if tensorboard:
        check_tensorboard()
    recording = None if replay is None else Replay(replay / REPLIES)
    if recording is None:
        check_settings(experiment)
    else:
        load_dataset(experiment.institutions.data, experiment.institutions.root)
        check_federation(experiment, recording.cards)
    print_experiment(experiment, engine if recording is None else "replay")
    with live_page(path, live, "fedkd"):
        if recording is not None:
            driver = partial(_run_replay, recording)
            return _execute(experiment, "replay", path, driver, None, tensorboard)
        run_checkpoint = None
        if checkpoint or record:
            run_checkpoint = Checkpoint.begin(path, experiment, engine, checkpoint, record)
        return _execute(experiment, engine, path, _DRIVERS[engine], run_checkpoint, tensorboard)


def runs_another_first(experiment: Experiment) -> bool:
    """Whether its student goes on from a run that is to be made."""
    return experiment.grow.first is not None and experiment.grow.run is None


def after_first_run(
    experiment: Experiment, engine: str, path: Path, checkpoint: float
) -> Experiment:
    """``experiment`` with the folder of its first run, which is run where it has one and must be.

    A finished run of the same settings in that folder is used, an interrupted one resumed.

    Args:
        experiment: resolved; ``grow.first`` may name another, of the same seed.
        engine: one of `ENGINES`.
        path: of the grown run; the first one's folder is beside it, called ``NAME-first``.
        checkpoint: seconds between checkpoints of the first run.

    Raises:
        FedkdError: what `run` raises; or another run is in the first one's folder.
    """
    grow, folder = experiment.grow, path.with_name(f"{path.name}-first")
    if grow.first is None or not runs_another_first(experiment):
        return experiment
    check_experiment(experiment.model_copy(update={"grow": Grow()}))
    first = load_experiment(grow.first, [f"seed={experiment.seed}"])
    if (folder / RESULT).exists():
        _check_same(load_result(folder / RESULT).config == first.model_dump(mode="json"), folder)
    elif (folder / MANIFEST).exists():
        _check_same(read_manifest(folder).experiment == first, folder)
        resume(folder)
    else:
        run(first, engine, folder, checkpoint=checkpoint)
    return grown_from(experiment, folder)


def _check_same(same: bool, folder: Path) -> None:
    """Refuse a first run of other settings."""
    if not same:
        raise SettingsError(f"{folder} holds a run of other settings; name another --out")


def resume(
    path: Path,
    without: Sequence[str] = (),
    live: int | None = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Resume a run that was interrupted; returns what stands in its ``result.json``.

    A run that was killed after its result was written lacks only its report page.

    Args:
        path: folder of the run, with its manifest and checkpoint.
        without: names of institutions that are left out from here on.
        live: port on which the page is served while the run goes on; None: not at all.
        tensorboard: write ``tensorboard/`` too.

    Raises:
        FedkdError: there is no such run, or whatever else went wrong, in one line.
    """
    if (result := complete_interrupted_run(path)) is not None:
        server_console.print_result(result, str(path / "report.html"))
        return result
    if tensorboard:
        check_tensorboard()
    run_checkpoint = Checkpoint.resume(path, *ENGINES, without=without)
    manifest = run_checkpoint.manifest
    print_experiment(manifest.experiment, manifest.engine)
    server_console.print_resumed(manifest.resumed, run_checkpoint.questions, manifest.warning)
    driver = _DRIVERS[manifest.engine]
    with live_page(path, live, "fedkd"):
        experiment, engine = manifest.experiment, manifest.engine
        return _execute(experiment, engine, path, driver, run_checkpoint, tensorboard)


@dataclass(frozen=True, eq=False)
class _RunContext:
    """What an engine is given."""

    experiment: Experiment
    vaults: Path
    recorder: RunRecorder
    bars: server_console.ProgressBars
    checkpoint: Checkpoint | None


EngineResult = tuple[RunOutcome, dict[str, Traffic]]
Driver = Callable[[_RunContext], EngineResult]


def _execute(
    experiment: Experiment,
    engine: str,
    path: Path,
    driver: Driver,
    checkpoint: Checkpoint | None,
    tensorboard: bool,
) -> dict[str, Any]:
    # For teachers too: sums depend on it, and Flower's workers have one thread each.
    torch.set_num_threads(experiment.student.threads)
    vaults = teacher_cache(experiment, path)
    with resume_hint(checkpoint, f"fedkd run --resume {path}"):
        with (
            server_console.progress_bars(experiment) as bars,
            tensorboard_log(path, tensorboard) as logs,
        ):
            score = partial(student_score, experiment)
            recorder = RunRecorder(path, experiment, engine, score, (bars, *logs), checkpoint)
            try:
                outcome, traffic = driver(
                    _RunContext(experiment, vaults, recorder, bars, checkpoint)
                )
            except FedkdError:
                recorder.folder.remove_if_empty()
                raise
        judged = (experiment, vaults, outcome.cards, outcome.distilled.student)
        evaluation = examine(*judged, evaluate(*judged))
        if checkpoint is not None:
            traffic = {
                name: traffic_of(counts) for name, counts in checkpoint.total_counts().items()
            }
        result = recorder.finish(outcome.distilled, outcome.cards, traffic, evaluation)
        if checkpoint is not None:
            checkpoint.finish()
    server_console.print_result(result, str(path / "report.html"))
    return result


def _run_local(context: _RunContext) -> EngineResult:
    checkpoint = context.checkpoint
    ledgers = None if checkpoint is None else checkpoint.ledgers
    local = LocalInstitutions(
        context.experiment,
        context.vaults,
        context.bars.ready,
        ledgers=ledgers,
        without=() if checkpoint is None else checkpoint.manifest.without,
    )
    if checkpoint is not None:
        checkpoint.current_counts = lambda: {name: of.counts for name, of in local.traffic.items()}
    parts = ingredients(context.experiment, local.cards, checkpoint)
    context.recorder.student = parts.student
    coordinator = Coordinator(parts, list(local.cards), local.answer, context.recorder)
    context.recorder.begin(coordinator.cards)
    return RunOutcome(coordinator.finish(), local.cards, {}, {}), local.traffic


def _run_replay(replay: Replay, context: _RunContext) -> EngineResult:
    parts = ingredients(context.experiment, replay.cards)
    context.recorder.student = parts.student
    coordinator = Coordinator(
        parts, replay.cards, lambda request: (replay.answer(request), {}), context.recorder
    )
    context.recorder.begin(coordinator.cards)
    distilled = coordinator.finish()
    traffic = Traffic(distilled.asked, distilled.pulled_back)  # counted when the run was recorded
    return RunOutcome(distilled, tuple(replay.cards), {}, {}), {
        c.name: traffic for c in replay.cards
    }


def _run_simulation(context: _RunContext) -> EngineResult:
    recorder = context.recorder
    outcome = simulate(
        context.experiment, context.vaults, recorder, context.checkpoint, recorder.begin
    )
    return outcome, {name: traffic_of(of.counts) for name, of in outcome.counters.items()}


_DRIVERS: dict[str, Driver] = {"local": _run_local, "simulation": _run_simulation}


def teacher_cache(experiment: Experiment, path: Path) -> Path:
    """Folder of the teachers of a run with this folder; runs beside it share it."""
    return path.resolve().parent / ".institutions" / teacher_fingerprint(experiment)


def teacher_fingerprint(experiment: Experiment) -> str:
    """Digest of all settings that teachers depend on; runs with equal digests share teachers."""
    # Who takes part changes no teacher: data are dealt out among all.
    own = experiment.institutions.model_dump_json(exclude={"present"})
    text = own + experiment.privacy.model_dump_json()
    return hashlib.sha256(text.encode()).hexdigest()[:16]
