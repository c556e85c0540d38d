"""One experiment from its file to its report. The place where both sides meet."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedkd.errors import SettingsError
from fedkd.experiment.experiment import Experiment
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.server.run import console as show
from fedkd.server.run.checkpoint import REPLIES, Checkpoint, kept
from fedkd.server.run.flower_run import Outcome
from fedkd.server.run.recorder import Chronicle, Traffic, completed, traffic_of
from fedkd.simulations.console import resolved
from fedkd.simulations.engines.evaluation import data, score, verdict
from fedkd.simulations.engines.flower import simulate
from fedkd.simulations.engines.local import Local
from fedkd.wire.recording import Replay

ENGINES = ("local", "simulation")


def run(
    experiment: Experiment,
    engine: str,
    out: Path | None,
    *,
    record: bool = False,
    replay: Path | None = None,
    checkpoint: float = 0.0,
) -> dict[str, Any]:
    """Run an experiment; returns what stands in its ``result.json``.

    Args:
        experiment: resolved.
        engine: one of `ENGINES`.
        out: folder of the run, empty or not there yet; None makes one under ``runs``.
        record: keep every reply in the folder.
        replay: folder of a recorded run, whose replies answer in the place of institutions.
        checkpoint: seconds between states of the run; with 0 it leaves no way back, unless it is
            recorded.

    Raises:
        FedkdError: whatever went wrong, in one line.
    """
    if engine not in ENGINES:
        raise SettingsError(f"unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
    path = out or Path("runs") / f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    resolved(experiment, "replay" if replay else engine)
    # Unreadable data should be known before anybody is started.
    data(experiment.institutions.data, experiment.institutions.root)
    if replay is not None:
        source = Replay(replay / REPLIES)
        return _carry_out(experiment, "replay", path, partial(_replayed, source), None)
    way_back = None
    if checkpoint or record:
        way_back = Checkpoint.begin(path, experiment, engine, checkpoint, record)
    return _carry_out(experiment, engine, path, _DRIVERS[engine], way_back)


def resume(path: Path) -> dict[str, Any]:
    """Take a run up again that was cut short; returns what stands in its ``result.json``.

    One that was killed after its result was written lacks no more than its page.

    Args:
        path: of its folder, which says what is run and how.

    Raises:
        FedkdError: there is no such run, or whatever else went wrong, in one line.
    """
    if (result := completed(path)) is not None:
        show.outcome(result, str(path / "report.html"))
        return result
    way_back = Checkpoint.resume(path, *ENGINES)
    manifest = way_back.manifest
    resolved(manifest.experiment, manifest.engine)
    show.resumed(manifest.resumed, way_back.questions, manifest.warning)
    driver = _DRIVERS[manifest.engine]
    return _carry_out(manifest.experiment, manifest.engine, path, driver, way_back)


@dataclass(frozen=True, eq=False)
class _Setting:
    """What a driver has at hand."""

    experiment: Experiment
    vaults: Path
    chronicle: Chronicle
    bars: show.Bars
    checkpoint: Checkpoint | None


Ran = tuple[Outcome, dict[str, Traffic]]
Driver = Callable[[_Setting], Ran]


def _carry_out(
    experiment: Experiment,
    engine: str,
    path: Path,
    driver: Driver,
    checkpoint: Checkpoint | None,
) -> dict[str, Any]:
    # Teachers too: their sums depend on it, and Flower's workers have one thread each.
    torch.set_num_threads(experiment.student.threads)
    vaults = path.resolve().parent / ".institutions" / _fingerprint(experiment)
    with kept(checkpoint, f"fedkd run --resume {path}"):
        with show.bars(experiment) as bars:
            chronicle = Chronicle(
                path, experiment, engine, partial(score, experiment), (bars,), checkpoint
            )
            outcome, traffic = driver(_Setting(experiment, vaults, chronicle, bars, checkpoint))
        judged = verdict(experiment, vaults, outcome.cards, outcome.distilled.student)
        if checkpoint is not None:
            traffic = {name: traffic_of(counts) for name, counts in checkpoint.total().items()}
        result = chronicle.finish(outcome.distilled, outcome.cards, traffic, judged)
        if checkpoint is not None:
            checkpoint.finish()
    show.outcome(result, str(path / "report.html"))
    return result


def _locally(setting: _Setting) -> Ran:
    checkpoint = setting.checkpoint
    books = None if checkpoint is None else checkpoint.books
    local = Local(setting.experiment, setting.vaults, setting.bars.ready, books=books)
    if checkpoint is not None:
        checkpoint.counted = lambda: {name: vars(of) for name, of in local.traffic.items()}
    parts = ingredients(setting.experiment, local.cards, checkpoint)
    setting.chronicle.student = parts.student
    coordinator = Coordinator(parts, list(local.cards), local.answer, setting.chronicle)
    return Outcome(coordinator.finish(), local.cards, {}, None), local.traffic


def _replayed(replay: Replay, setting: _Setting) -> Ran:
    parts = ingredients(setting.experiment, replay.cards)
    setting.chronicle.student = parts.student
    coordinator = Coordinator(
        parts, replay.cards, lambda request: (replay.answer(request), {}), setting.chronicle
    )
    distilled = coordinator.finish()
    heard = Traffic(distilled.asked, distilled.pulled_back)  # then, from a recording now
    return Outcome(distilled, tuple(replay.cards), {}, None), {c.name: heard for c in replay.cards}


def _in_simulation(setting: _Setting) -> Ran:
    outcome = simulate(
        setting.experiment, setting.vaults, setting.chronicle, checkpoint=setting.checkpoint
    )
    return outcome, {name: traffic_of(of.counts) for name, of in outcome.counters.items()}


_DRIVERS: dict[str, Driver] = {"local": _locally, "simulation": _in_simulation}


def _fingerprint(experiment: Experiment) -> str:
    """Of everything that the teachers depend on; runs that share it share their teachers."""
    text = experiment.institutions.model_dump_json() + experiment.privacy.model_dump_json()
    return hashlib.sha256(text.encode()).hexdigest()[:16]
