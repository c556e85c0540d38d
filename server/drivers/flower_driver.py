"""Driver of a run through Flower: an experiment over the nodes of a grid."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from fedkd.core import Score
from fedkd.experiment import ADAPTIVE, ALL, Experiment, Linger
from fedkd.loop import Distilled, Watch
from fedkd.protocol import Card
from fedkd.server.card_expectation import expectation_failure
from fedkd.server.coordinator import Ingredients, StudentFactory, ingredients
from fedkd.server.experiment_check import check_experiment
from fedkd.server.flower_rounds import FlowerRounds
from fedkd.server.hub.hub import MAX_INSTITUTIONS
from fedkd.server.hub.participant_session import ParticipantCounters
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.start_selection import misfits_at_start
from fedkd.tasks.released_scores import EXAMPLES, nested_scores
from fedkd.wire.grpc_channels import grpc

log = logging.getLogger("flwr")

ROUNDS = 20
"""Flower rounds of a run; the student is evaluated after each."""
NODE_TIMEOUT = 300.0
"""Seconds that nodes may take to connect, to start an institution, or to evaluate a student."""


def _linger(linger: Linger, *, simulated: bool) -> Linger:
    """Simulated institutions share processors, so that the first answer tells nothing of the last.

    All of them are waited for: which answers there are, and so the student, must not depend on
    the load. There is nobody to be defended against.
    """
    return ALL if simulated and linger == ADAPTIVE else linger


@dataclass(frozen=True, eq=False)
class RunOutcome:
    """The student of a run with its participants, counters and scores."""

    distilled: Distilled
    cards: Sequence[Card]
    """Of the institutions that took part."""
    counters: Mapping[str, ParticipantCounters]
    """Of each institution, by name."""
    scores: Mapping[str, Score]
    """Of the final student on all test data of the institutions that report; none if none does."""


def distil_over_flower(
    grid: Grid,
    experiment: Experiment,
    vaults: Path,
    watch: Watch = lambda progress: None,
    rounds: int = ROUNDS,
    checkpoint: Checkpoint | None = None,
    advertised: str = "",
    credentials: grpc.ServerCredentials | None = None,
    begun: Callable[[Sequence[Card]], None] = lambda cards: None,
    build: StudentFactory | None = None,
) -> RunOutcome:
    """Distil the student of an experiment from the institutions behind a grid.

    Args:
        grid: as a ServerApp is given it.
        experiment: resolved; sent to simulated institutions.
        vaults: folder of the simulated institutions; real ones ignore it.
        watch: called with progress events.
        rounds: > 0.
        checkpoint: of the run; None for none.
        advertised: address to which institutions connect; empty for that of the hub.
        credentials: TLS of the hub; without them only this machine can connect.
        begun: called once with the cards of the institutions, before the first question.
        build: makes the student, where it is not the one that the experiment names.

    Raises:
        SettingsError: the experiment names something that does not exist.
        QuorumLost: too few institutions connected, or answered.
    """
    if build is None:
        # Institutions train their teachers when they are asked to connect.
        check_experiment(experiment)
    config = ConfigRecord({"experiment": experiment.model_dump_json(), "folder": str(vaults)})
    if checkpoint is not None:
        config["ledgers"] = str(checkpoint.ledgers)
    strategy = _ExperimentRounds(
        *(experiment, build, watch, begun, checkpoint),
        advertised=advertised,
        credentials=credentials,
    )
    result = strategy.start(
        grid, ArrayRecord(), rounds, NODE_TIMEOUT, train_config=config, evaluate_config=config
    )
    last = dict(result.evaluate_metrics_clientapp.get(rounds) or {})
    counts = (EXAMPLES, "institutions")
    flat = {name: cast(float, value) for name, value in last.items() if name not in counts}
    if strategy.distilled is None:
        raise RuntimeError("the last round ended and the loop had not")
    return RunOutcome(strategy.distilled, strategy.cards, strategy.counters, nested_scores(flat))


class _ExperimentRounds(FlowerRounds):
    """The rounds of an experiment: its student is built for the institutions that connected."""

    def __init__(
        self,
        experiment: Experiment,
        build: StudentFactory | None,
        watch: Watch,
        begun: Callable[[Sequence[Card]], None],
        checkpoint: Checkpoint | None,
        *,
        advertised: str,
        credentials: grpc.ServerCredentials | None,
    ) -> None:
        asked, count = experiment.questions, len(experiment.institutions.taking_part)
        super().__init__(
            model=experiment.student.model if build is None else "",
            expected_nodes=count,
            min_available_nodes=asked.quorum,
            quorum=asked.quorum,
            address=asked.address,
            advertised=advertised,
            credentials=credentials,
            question_timeout=asked.timeout,
            linger=_linger(asked.linger, simulated=credentials is None),
            watch=watch,
            begun=begun,
            checkpoint=checkpoint,
            misfit=lambda card: expectation_failure(experiment.expect, card),
            max_institutions=max(MAX_INSTITUTIONS, 2 * experiment.institutions.count),
        )
        self._experiment, self._build = experiment, build

    def misfits(self, cards: Sequence[Card]) -> Mapping[str, str]:
        """Those without which the run can begin."""
        found = misfits_at_start(self._experiment, cards, self._build)
        for why in found.values():
            log.warning("an institution is turned away: %s", why)
        return found

    def ingredients(self, cards: Sequence[Card]) -> Ingredients:
        """Student, method, plan and priors of the experiment."""
        return ingredients(self._experiment, cards, self.checkpoint, self._build)

    def summary(self) -> None:
        """Log what the strategy will do."""
        asked, steps = self._experiment.questions, self._experiment.student.steps
        log.info("\t├── method: %s", self._experiment.method.name)
        log.info("\t├── samples asked of each institution: %s", f"{asked.budget:,}")
        log.info("\t├── student steps: %s", f"{steps:,}")
        log.info("\t└── institutions: %s or more", self.min_available_nodes)
