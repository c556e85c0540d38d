"""Institutions whose card does not fit a run: refused as long as they come with that card."""

import logging
from collections.abc import Callable, Mapping

from fedkd.process.logs import log_event
from fedkd.protocol import Card

log = logging.getLogger(__name__)


class TurnedAway:
    """Names of institutions that were turned away, with the reason and a digest of the card.

    That is no ban: whoever comes with another card is looked at anew. Any thread may use it.

    Args:
        misfit: why an institution with that card is turned away, in one line; None: it is not.
    """

    def __init__(self, misfit: Callable[[Card], str | None]) -> None:
        self._misfit = misfit
        self._cards: dict[str, tuple[int, str]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._cards

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why, by name of institution."""
        return {name: why for name, (_, why) in self._cards.copy().items()}

    def add(self, card: Card, why: str) -> None:
        """Turn the institution of ``card`` away; the log says so once."""
        if self._cards.get(card.name, (0, ""))[1] != why:
            log_event(log, "turned_away", logging.WARNING, name=card.name, reason=why)
        self._cards[card.name] = hash(card), why

    def check(self, card: Card) -> str | None:
        """Why the institution of ``card`` is turned away, now or before; None if it is not."""
        digest, before = self._cards.get(card.name, (None, None))
        why = before if digest == hash(card) else self._misfit(card)
        if why is not None:
            self.add(card, why)
        return why

    def discard(self, name: str) -> None:
        """An institution has come with a card that fits."""
        self._cards.pop(name, None)
