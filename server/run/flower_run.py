"""An experiment, run over the nodes of a Flower grid. Knows no data and no engine beneath it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from fedkd.experiment.experiment import Experiment
from fedkd.loop import Distilled, Watch
from fedkd.protocol.signals import Card
from fedkd.server.coordinator import ingredients
from fedkd.server.hub.session import Counters
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.flower_messages import roll_call
from fedkd.server.run.quorum import Muster
from fedkd.server.strategy import DataFreeDistillation
from fedkd.wire.channel import grpc

ROUNDS = 20
"""Times that the student is examined on the way."""
PATIENCE = 300.0
"""Seconds that nodes may take to come, to open an institution, or to examine a student."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a run through Flower."""

    distilled: Distilled
    cards: Sequence[Card]
    """Of the institutions that took part."""
    counters: Mapping[str, Counters]
    """What passed between hub and institutions, by name."""
    accuracy: float | None
    """Of the last student on all test data of the institutions that tell; None if none does."""


def federate(
    grid: Grid,
    experiment: Experiment,
    vaults: Path,
    watch: Watch = lambda progress: None,
    rounds: int = ROUNDS,
    checkpoint: Checkpoint | None = None,
    advertised: str = "",
    credentials: grpc.ServerCredentials | None = None,
) -> Outcome:
    """Distil the student of an experiment from the institutions behind a grid.

    Args:
        grid: as a ServerApp is given it.
        experiment: resolved; simulated institutions are told the whole of it.
        vaults: where simulated institutions keep what is theirs. An owner's does not read it.
        watch: is told of progress; changes nothing.
        rounds: > 0.
        checkpoint: the way back of the run, where it is to have one.
        advertised: where institutions are told to dial; empty for where the hub listens.
        credentials: TLS of the hub; without them only this machine can dial in.

    Raises:
        SettingsError: the experiment asks for what is not there.
        QuorumLost: too few institutions came, or answered.
    """
    asked, earlier = experiment.questions, [] if checkpoint is None else checkpoint.cards
    linger = asked.timeout if earlier else None
    muster = Muster(experiment.institutions.count, asked.quorum, PATIENCE, linger)
    config = ConfigRecord({"experiment": experiment.model_dump_json(), "folder": str(vaults)})
    if checkpoint is not None:
        config["books"] = str(checkpoint.books)
    rolled = roll_call(grid, muster, config)
    parts = ingredients(experiment, earlier or rolled)
    strategy = DataFreeDistillation(
        method=parts.method,
        student=parts.student,
        plan=parts.plan,
        priors=parts.priors,
        model=experiment.student.model,
        seed=parts.seed,
        quorum=parts.quorum,
        min_available_nodes=parts.quorum,
        address=asked.address,
        advertised=advertised,
        credentials=credentials,
        question_timeout=asked.timeout,
        linger=asked.linger,
        watch=watch,
        recipes=parts.recipes,
        checkpoint=checkpoint,
        overlap=parts.overlap,
        compute=parts.compute,
        collected=parts.collected,
    )
    arrays = ArrayRecord(parts.student.state_dict())
    result = strategy.start(
        grid, arrays, rounds, PATIENCE, train_config=config, evaluate_config=config
    )
    last = result.evaluate_metrics_clientapp.get(rounds)
    accuracy = None if last is None else cast(float, last["accuracy"])
    if strategy.distilled is None:
        raise RuntimeError("the last round ended and the loop had not")
    return Outcome(strategy.distilled, strategy.cards, strategy.counters, accuracy)
