"""Driver of a run without Flower: wait for institutions at the hub, distil, write the report."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedkd.experiment import Experiment
from fedkd.process.logs import log_event
from fedkd.protocol import Card
from fedkd.server.coordinator import Coordinator, StudentFactory, ingredients
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.quorum_error import quorum_lost
from fedkd.server.remote_institutions import RemoteInstitutions
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.quorum import Quorum
from fedkd.server.run.run_recorder import Evaluation, RunRecorder, traffic_of

log = logging.getLogger(__name__)


def await_institutions(
    hub: Hub,
    quorum: Quorum,
    progress: Callable[[int], None] = lambda count: None,
    misfits: Callable[[Sequence[Card]], Mapping[str, str]] = lambda cards: {},
) -> tuple[Card, ...]:
    """Cards of the institutions that have connected, once they are enough.

    Args:
        hub: to which they connect.
        quorum: how many are waited for, and how long.
        progress: called with the number of connected institutions, whenever one connects.
        misfits: returns who of these cannot take part, with reasons; they are turned away, and not
            waited for: the run begins with the others, once these are enough. Whoever comes with
            a new card after that is waited for until time is up, and no longer.

    Raises:
        QuorumLost: fewer than a quorum came.
    """
    deadline = time.monotonic() + quorum.timeout
    count, seen = quorum.expected, set[str]()
    log_event(log, "waiting", address=hub.address, institutions=count, seconds=quorum.timeout)

    def present() -> tuple[Card, ...]:
        cards = hub.cards
        for name in sorted({card.name for card in cards} - seen):
            seen.add(name)
            log_event(log, "connected", name=name, institutions=f"{len(seen)} of {count}")
            progress(len(seen))
        return cards

    while True:
        left = max(0.0, deadline - time.monotonic())
        cards = replace(quorum, timeout=left).wait_for(
            present, turned_away=lambda: len(hub.turned_away)
        )
        reasons = misfits(cards) if len(cards) >= quorum.minimum else {}
        for card in cards:
            if why := reasons.get(card.name):
                hub.turn_away(card, why)
        cards = tuple(card for card in cards if card.name not in reasons)
        if not reasons or time.monotonic() > deadline:
            break
    if len(cards) < quorum.minimum:
        raise quorum_lost(cards, quorum.minimum, quorum.timeout, hub.turned_away)
    if len(cards) < count:
        log_event(log, "starting without all", institutions=f"{len(cards)} of {count}")
    return cards


def distil_over_hub(
    experiment: Experiment,
    hub: Hub,
    cards: tuple[Card, ...],
    recorder: RunRecorder,
    checkpoint: Checkpoint | None = None,
    build: StudentFactory | None = None,
) -> dict[str, Any]:
    """Distil the experiment's student from these institutions, and leave its report.

    Args:
        experiment: resolved.
        hub: open, with the institutions of ``cards``.
        cards: of those that are connected.
        recorder: of this run.
        checkpoint: of this run; a resumed one continues from its last state.
        build: makes the student, where it is not the one that the experiment names.

    Returns:
        The content of ``result.json``. Accuracies are None: a coordinator has no data.

    Raises:
        SettingsError: the experiment names something that does not exist.
        QuorumLost: too few institutions answered a question.
    """
    asked, earlier = experiment.questions, [] if checkpoint is None else checkpoint.cards
    parts = ingredients(experiment, earlier or cards, checkpoint, build)
    recorder.student = parts.student
    participants = RemoteInstitutions(hub, parts, earlier or cards, asked.timeout, asked.linger)

    def counted() -> dict[str, dict[str, int]]:
        return {name: counters.counts for name, counters in hub.counters.items()}

    if checkpoint is not None:
        checkpoint.current_counts = counted
    coordinator = Coordinator(
        *(parts, participants.cards, participants.answer, recorder), exclusions=hub.refresh_bans
    )
    participants.cards = coordinator.cards  # of a resumed run: those who took part before
    participants.fusion_failure = coordinator.fusion_failure
    recorder.begin(coordinator.cards)
    distilled = coordinator.finish()
    total = counted() if checkpoint is None else checkpoint.total_counts()
    traffic = {name: traffic_of(counts) for name, counts in total.items()}
    result = recorder.finish(distilled, participants.cards, traffic, Evaluation(simulated=False))
    if checkpoint is not None:
        checkpoint.finish()
    return result
