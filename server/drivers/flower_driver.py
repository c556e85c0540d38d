"""Driver of a run through Flower: an experiment over the nodes of a grid."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid

from fedkd.core import Score
from fedkd.core.earlier_student import TeacherCards
from fedkd.experiment import ADAPTIVE, ALL, Expect, Experiment, Linger
from fedkd.loop import Distilled, Watch
from fedkd.protocol import Card, class_names_of
from fedkd.protocol.label_spaces import sample_mismatch
from fedkd.server.card_expectation import expectation_failure
from fedkd.server.coordinator import StudentFactory, ingredients
from fedkd.server.experiment_check import check_experiment
from fedkd.server.flower_strategy import DataFreeDistillation
from fedkd.server.hub.hub import MAX_INSTITUTIONS
from fedkd.server.hub.participant_session import ParticipantCounters
from fedkd.server.hub.quorum_error import quorum_lost
from fedkd.server.remote_institutions import teacher_mismatch
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.flower_grid import collect_cards
from fedkd.server.run.quorum import Quorum
from fedkd.server.start_selection import sample_misfits
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


def _misfits(expect: Expect, cards: Sequence[Card]) -> Mapping[Card, str]:
    """The cards that no student is built for, by what is known before institutions connect.

    Args:
        expect: of the experiment.
        cards: as told over Flower, each different. A node may tell the name of another institution:
            the hub, which knows whose a name is, judges whoever comes to it by its card alone.
    """
    found = {card: why for card in cards if (why := expectation_failure(expect, card))}
    rest = [card for card in cards if card not in found]
    count = Counter(card.name for card in rest)
    found |= {
        card: f"{count[card.name]} nodes tell different cards of {card.name}; name them apart"
        for card in rest
        if count[card.name] > 1
    }
    rest = [card for card in rest if card not in found]
    misfits = sample_misfits(rest)
    found |= {card: misfits[card.name] for card in rest if card.name in misfits}
    for why in dict.fromkeys(found.values()):
        log.warning("an institution is turned away: %s", why)
    return found


def _misfit_at_hub(card: Card, expect: Expect, teachers: Sequence[Card]) -> str | None:
    """Why an institution that connects with ``card`` cannot take part; None if it can.

    Args:
        card: as the hub received it.
        expect: of the experiment.
        teachers: that the student was built for: another card under one of their names, or another
            class, would end the run for all.
    """
    if why := expectation_failure(expect, card):
        return why
    told = next((each for each in teachers if each.name == card.name), card)
    if sample_mismatch(card, told) or class_names_of(card) != class_names_of(told):
        return (
            f"{card.name} connects with another card than it told before: what its teacher reads "
            "and predicts stays as it is; bring the same teacher back"
        )
    return teacher_mismatch(card, teachers)


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
        # Institutions train their teachers when they are asked for cards.
        check_experiment(experiment)
    asked, earlier = experiment.questions, [] if checkpoint is None else checkpoint.cards
    linger = asked.timeout if earlier else None
    quorum = Quorum(len(experiment.institutions.taking_part), asked.quorum, NODE_TIMEOUT, linger)
    config = ConfigRecord({"experiment": experiment.model_dump_json(), "folder": str(vaults)})
    if checkpoint is not None:
        config["ledgers"] = str(checkpoint.ledgers)
    cards = collect_cards(grid, quorum, config)
    if checkpoint is not None:
        cards = tuple(checkpoint.taking_part(cards))
    cards = tuple(dict.fromkeys(cards))
    misfits = {} if earlier else _misfits(experiment.expect, cards)
    cards = tuple(card for card in cards if card not in misfits)
    if len(cards) < asked.quorum:
        reasons = {card.name: why for card, why in misfits.items()}
        raise quorum_lost(cards, asked.quorum, NODE_TIMEOUT, reasons)
    parts = ingredients(experiment, earlier or cards, build=build)
    teachers = TeacherCards(parts.earlier, earlier or cards)
    strategy = DataFreeDistillation(
        method=parts.method,
        student=parts.student,
        plan=parts.plan,
        priors=parts.priors,
        model=experiment.student.model if build is None else "",
        seed=parts.seed,
        quorum=parts.quorum,
        min_available_nodes=parts.quorum,
        address=asked.address,
        advertised=advertised,
        credentials=credentials,
        question_timeout=asked.timeout,
        linger=_linger(asked.linger, simulated=credentials is None),
        watch=watch,
        recipes=parts.recipes,
        checkpoint=checkpoint,
        overlap=parts.overlap,
        compute=parts.compute,
        public=parts.public,
        earlier=parts.earlier,
        max_institutions=max(MAX_INSTITUTIONS, 2 * experiment.institutions.count),
        misfit=lambda card: _misfit_at_hub(card, experiment.expect, teachers),
    )
    begun(earlier or cards)
    arrays = ArrayRecord(parts.student.state_dict())
    result = strategy.start(
        grid, arrays, rounds, NODE_TIMEOUT, train_config=config, evaluate_config=config
    )
    last = dict(result.evaluate_metrics_clientapp.get(rounds) or {})
    counts = (EXAMPLES, "institutions")
    flat = {name: cast(float, value) for name, value in last.items() if name not in counts}
    if strategy.distilled is None:
        raise RuntimeError("the last round ended and the loop had not")
    return RunOutcome(strategy.distilled, strategy.cards, strategy.counters, nested_scores(flat))
