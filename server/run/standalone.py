"""A run without Flower: institutions dial in at a hub, the loop asks them. Knows no data.

The loop, the questions and the report are those of every other engine.
"""

import logging
from collections.abc import Callable
from typing import Any

from fedkd.core.logs import say
from fedkd.experiment.experiment import Experiment
from fedkd.protocol.signals import Card
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.server.hub.hub import Hub, too_few
from fedkd.server.hub.participant_list import Audience
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.quorum import Muster
from fedkd.server.run.recorder import Chronicle, Verdict, traffic_of

log = logging.getLogger(__name__)


def gather(
    hub: Hub, muster: Muster, here: Callable[[int], None] = lambda count: None
) -> tuple[Card, ...]:
    """Cards of the institutions that have dialled in, once they are enough.

    Args:
        hub: where they dial in.
        muster: how many are waited for, and how long.
        here: is told how many are here, whenever one comes.

    Raises:
        QuorumLost: fewer than a quorum came.
    """
    count, known = muster.count, set[str]()
    say(log, "waiting", address=hub.address, institutions=count, seconds=muster.patience)

    def look() -> tuple[Card, ...]:
        cards = hub.cards
        for name in sorted({card.name for card in cards} - known):
            known.add(name)
            say(log, "here", name=name, institutions=f"{len(known)} of {count}")
            here(len(known))
        return cards

    cards = muster.assemble(look)
    if len(cards) < muster.quorum:
        raise too_few(cards, muster.quorum, muster.patience)
    if len(cards) < count:
        say(log, "begins without all", institutions=f"{len(cards)} of {count}")
    return cards


def conduct(
    experiment: Experiment,
    hub: Hub,
    cards: tuple[Card, ...],
    chronicle: Chronicle,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Distil the experiment's student from these institutions, and leave its report.

    Args:
        experiment: resolved.
        hub: open, with the institutions of ``cards``.
        cards: of those that are here.
        chronicle: of this run.
        checkpoint: its way back; one that was resumed goes on where it was set down.

    Returns:
        What stands in ``result.json``. Accuracies are None: a coordinator has no data.

    Raises:
        SettingsError: the experiment asks for what is not there.
        QuorumLost: too few institutions answered a question.
    """
    asked, earlier = experiment.questions, [] if checkpoint is None else checkpoint.cards
    parts = ingredients(experiment, earlier or cards, checkpoint)
    chronicle.student = parts.student
    audience = Audience(hub, parts, earlier or cards, asked.timeout, asked.linger)

    def counted() -> dict[str, dict[str, int]]:
        return {name: counters.counts for name, counters in hub.counters.items()}

    if checkpoint is not None:
        checkpoint.counted = counted
    coordinator = Coordinator(parts, audience.cards, audience.answer, chronicle)
    audience.cards = coordinator.cards  # of a run that is taken up again: whoever took part
    distilled = coordinator.finish()
    total = counted() if checkpoint is None else checkpoint.total()
    traffic = {name: traffic_of(counts) for name, counts in total.items()}
    result = chronicle.finish(distilled, audience.cards, traffic, Verdict(simulated=False))
    if checkpoint is not None:
        checkpoint.finish()
    return result
