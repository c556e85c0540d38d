"""One experiment from its file to its report. The place where both sides meet."""

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.wire.record import Recorder, Replay
from server.app import traffic_of
from server.chronicle import Chronicle, Traffic
from server.coordinator import Coordinator, ingredients
from server.federation import Outcome
from simulations import show
from simulations.flower import simulate
from simulations.local import Local
from simulations.verdict import data, score, verdict

ENGINES = ("local", "simulation")
REPLIES = "replies.bin"
"""In a run's folder: every reply, where they were kept."""


def run(
    experiment: Experiment,
    engine: str,
    out: Path | None,
    *,
    record: bool = False,
    replay: Path | None = None,
) -> dict[str, Any]:
    """Run an experiment; returns what stands in its ``result.json``.

    Args:
        experiment: resolved.
        engine: one of `ENGINES`.
        out: folder of the run, empty or not there yet; None makes one under ``runs``.
        record: keep every reply in the folder.
        replay: folder of a recorded run, whose replies answer in the place of institutions.

    Raises:
        FedkdError: whatever went wrong, in one line.
    """
    if engine not in ENGINES:
        raise SettingsError(f"unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
    path = out or Path("runs") / f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    show.resolved(experiment, "replay" if replay else engine)
    # Teachers too: their sums depend on it, and Flower's workers have one thread each.
    torch.set_num_threads(experiment.student.threads)
    # Unreadable data should be known before anybody is started.
    data(experiment.institutions.data, experiment.institutions.root)
    vaults = path.resolve().parent / ".institutions" / _fingerprint(experiment)
    with show.bars(experiment) as bars:
        chronicle = Chronicle(
            path, experiment, "replay" if replay else engine, partial(score, experiment), (bars,)
        )
        recorder = Recorder(path / REPLIES) if record else None
        if replay is not None:
            outcome, traffic = _replayed(experiment, Replay(replay / REPLIES), chronicle)
        elif engine == "local":
            outcome, traffic = _locally(experiment, vaults, chronicle, bars, recorder)
        else:
            outcome, traffic = _in_simulation(experiment, vaults, chronicle, recorder)
    if recorder is not None:
        recorder.close()
    judged = verdict(experiment, vaults, outcome.cards, outcome.distilled.student)
    result = chronicle.finish(outcome.distilled, outcome.cards, traffic, judged)
    show.outcome(result, str(path / "report.html"))
    return result


Ran = tuple[Outcome, dict[str, Traffic]]


def _locally(
    experiment: Experiment,
    vaults: Path,
    chronicle: Chronicle,
    bars: show.Bars,
    recorder: Recorder | None,
) -> Ran:
    local = Local(experiment, vaults, bars.taught)
    parts = ingredients(experiment, local.cards[0], recorder)
    chronicle.student = parts.student
    coordinator = Coordinator(parts, local.cards, local.answer, chronicle)
    return Outcome(coordinator.finish(), local.cards, {}, None), local.traffic


def _replayed(experiment: Experiment, replay: Replay, chronicle: Chronicle) -> Ran:
    parts = ingredients(experiment, replay.cards[0])
    chronicle.student = parts.student
    coordinator = Coordinator(
        parts, replay.cards, lambda request: (replay.answer(request), {}), chronicle
    )
    distilled = coordinator.finish()
    heard = Traffic(distilled.asked, distilled.pulled_back)  # then, from a recording now
    return Outcome(distilled, replay.cards, {}, None), {c.name: heard for c in replay.cards}


def _in_simulation(
    experiment: Experiment,
    vaults: Path,
    chronicle: Chronicle,
    recorder: Recorder | None,
) -> Ran:
    outcome = simulate(experiment, vaults, chronicle, recorder=recorder)
    return outcome, {name: traffic_of(c) for name, c in outcome.counters.items()}


def _fingerprint(experiment: Experiment) -> str:
    """Of everything that the teachers depend on; runs that share it share their teachers."""
    text = experiment.institutions.model_dump_json() + experiment.privacy.model_dump_json()
    return hashlib.sha256(text.encode()).hexdigest()[:16]
