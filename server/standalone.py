"""A run without Flower: institutions dial in at a hub, the loop asks them. Knows no data.

The loop, the questions and the report are those of every other engine.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.logs import say
from fedkd.signals import Card
from server.audience import Audience
from server.chronicle import Chronicle, Verdict, traffic_of
from server.coordinator import Coordinator, ingredients
from server.hub import Hub

LOOK_AGAIN = 0.1
"""Seconds between looks for institutions that are not here yet."""

log = logging.getLogger(__name__)


def gather(
    hub: Hub, count: int, patience: float, here: Callable[[int], None] = lambda count: None
) -> tuple[Card, ...]:
    """Cards of the institutions that take part, once ``count`` have dialled in.

    Args:
        hub: where they dial in.
        count: >= 1.
        patience: seconds that they may take.
        here: is told how many are here, whenever one comes.

    Raises:
        QuorumLost: fewer came.
        SettingsError: their images or classes differ.
    """
    say(log, "waiting", address=hub.address, institutions=count, seconds=patience)
    deadline, known = time.monotonic() + patience, set[str]()
    while True:
        cards = hub.cards
        for name in sorted({card.name for card in cards} - known):
            known.add(name)
            say(log, "here", name=name, institutions=f"{len(known)} of {count}")
            here(len(known))
        if len(cards) >= count or time.monotonic() > deadline:
            break
        time.sleep(LOOK_AGAIN)
    cards = hub.wait_for(count, 0.0)
    if len({(card.classes, card.shape) for card in cards}) > 1:
        told = "; ".join(f"{c.name}: {c.classes} classes of images {c.shape}" for c in cards)
        raise SettingsError(f"institutions differ ({told}); all teachers of a run must agree")
    return cards


def conduct(
    experiment: Experiment, hub: Hub, cards: tuple[Card, ...], chronicle: Chronicle
) -> dict[str, Any]:
    """Distil the experiment's student from these institutions, and leave its report.

    Args:
        experiment: resolved.
        hub: open, with the institutions of ``cards``.
        cards: of those that take part.
        chronicle: of this run, nothing in it yet.

    Returns:
        What stands in ``result.json``. Accuracies are None: a coordinator has no data.

    Raises:
        SettingsError: the experiment asks for what is not there.
        QuorumLost: too few institutions answered a question.
    """
    asked = experiment.questions
    parts = ingredients(experiment, cards[0])
    chronicle.student = parts.student
    audience = Audience(hub, parts, cards, asked.timeout, asked.linger)
    distilled = Coordinator(parts, audience.cards, audience.answer, chronicle).finish()
    traffic = {name: traffic_of(counters) for name, counters in hub.counters.items()}
    return chronicle.finish(distilled, audience.cards, traffic, Verdict(simulated=False))
