"""One experiment from its file to its report. The place where both sides meet."""

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Any

from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from server.app import traffic_of
from server.chronicle import Chronicle, Traffic
from server.coordinator import Coordinator, ingredients
from server.federation import Outcome
from simulations import show
from simulations.flower import simulate
from simulations.local import Local
from simulations.verdict import data, score, verdict

ENGINES = ("local", "simulation")


def run(experiment: Experiment, engine: str, out: Path | None) -> dict[str, Any]:
    """Run an experiment; returns what stands in its ``result.json``.

    Args:
        experiment: resolved.
        engine: one of `ENGINES`.
        out: folder of the run, empty or not there yet; None makes one under ``runs``.

    Raises:
        FedkdError: whatever went wrong, in one line.
    """
    if engine not in ENGINES:
        raise SettingsError(f"unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
    path = out or Path("runs") / f"{experiment.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    show.resolved(experiment, engine)
    # Unreadable data should be known before anybody is started.
    data(experiment.institutions.data, experiment.institutions.root)
    vaults = path.resolve().parent / ".institutions" / _fingerprint(experiment)
    with show.bars(experiment) as bars:
        chronicle = Chronicle(path, experiment, engine, partial(score, experiment), (bars,))
        conduct = _locally if engine == "local" else _in_simulation
        outcome, traffic = conduct(experiment, vaults, chronicle, bars)
    judged = verdict(experiment, vaults, outcome.cards, outcome.distilled.student)
    result = chronicle.finish(outcome.distilled, outcome.cards, traffic, judged)
    show.outcome(result, str(path / "report.html"))
    return result


def _locally(
    experiment: Experiment, vaults: Path, chronicle: Chronicle, bars: show.Bars
) -> tuple[Outcome, dict[str, Traffic]]:
    local = Local(experiment, vaults, bars.taught)
    parts = ingredients(experiment, local.cards[0])
    chronicle.student = parts.student
    coordinator = Coordinator(parts, local.cards, local.answer, chronicle)
    return Outcome(coordinator.finish(), local.cards, {}, None), local.traffic


def _in_simulation(
    experiment: Experiment, vaults: Path, chronicle: Chronicle, bars: show.Bars
) -> tuple[Outcome, dict[str, Traffic]]:
    outcome = simulate(experiment, vaults, chronicle)
    bars.taught(experiment.institutions.count)
    return outcome, {name: traffic_of(c) for name, c in outcome.counters.items()}


def _fingerprint(experiment: Experiment) -> str:
    """Of everything that the teachers depend on; runs that share it share their teachers."""
    text = experiment.institutions.model_dump_json()
    return hashlib.sha256(text.encode()).hexdigest()[:16]
