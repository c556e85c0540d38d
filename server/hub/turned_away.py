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
        self._never_asked = set[str]()

    def __contains__(self, name: object) -> bool:
        return name in self._cards

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why, by name of institution."""
        return {name: why for name, (_, why) in self._cards.copy().items()}

    def add(self, card: Card, why: str, *, never_asked: bool = False) -> None:
        """Turn the institution of ``card`` away; the log says so once.

        Args:
            card: that it came with.
            why: in one line.
            never_asked: whether it takes no part in the run yet, see `may_change`.
        """
        if never_asked:
            self._never_asked.add(card.name)
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

    def may_change(self, name: str) -> bool:
        """Whether it may come with another card, as if for the first time.

        Who takes part may not: a card that does not fit is no way to another one.
        """
        return name in self._never_asked

    def discard(self, name: str) -> None:
        """An institution has come with a card that fits."""
        self._cards.pop(name, None)
        self._never_asked.discard(name)
