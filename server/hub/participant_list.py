"""Whom a coordinator asks through a hub, through a whole run. Knows no image and no student.

Institutions may come and go at any time. One that comes late takes part from the next question on,
if it fits; one that goes leaves its answers behind and is asked again when it is back.
"""

from collections.abc import Iterable

from fedkd.aggregation.fusion import fusion
from fedkd.errors import SettingsError
from fedkd.protocol.label_spaces import Labels, names_of, some
from fedkd.protocol.signals import Answers, Ask, Card, Request
from fedkd.server.coordinator import Ingredients, Lost
from fedkd.server.hub.hub import Hub


class Audience:
    """The institutions of one run.

    Args:
        hub: open.
        parts: of the run; its method, rule and quorum decide who fits, and when one is missed.
        cards: of those who take part from the beginning.
        timeout: seconds that one question may take.
        linger: seconds that the others may take once a quorum has answered; None for all of it.
    """

    def __init__(
        self,
        hub: Hub,
        parts: Ingredients,
        cards: Iterable[Card],
        timeout: float,
        linger: float | None = None,
    ) -> None:
        self.cards = list(cards)
        """Of everybody who ever took part, in the order in which they came."""
        self.answering = 0
        """Institutions that answered the last question."""
        self._hub, self._parts = hub, parts
        self._timeout, self._linger = timeout, linger

    def answer(self, request: Request) -> tuple[Answers, Lost]:
        """Replies, and who is missing; whoever came since the last question is asked too."""
        self._take_in()
        each = {c.name: request for c in self.cards} if isinstance(request, Ask) else request
        answers, lost = self._hub.ask(
            each, self._timeout, quorum=self._parts.quorum, linger=self._linger
        )
        self.answering = len(answers)
        return answers, lost

    def _take_in(self) -> None:
        names = {card.name for card in self.cards}
        for card in self._hub.cards:
            if card.name in names:
                continue
            if why := self._objection(card):
                self._hub.turn_away(card.name, why)
            else:
                self.cards.append(card)

    def _objection(self, card: Card) -> str | None:
        """Why whoever comes with ``card`` has no place in this run; None where it has."""
        rule, ours = self._parts.plan.rule, self.cards[0]
        if card.shape != ours.shape:
            return (
                f"{card.name} reads images {card.shape}, this run has {ours.shape}; "
                "bring a teacher of that shape"
            )
        if strange := sorted(set(names_of(card)) - set(Labels.of(self.cards).names)):
            return (
                f"{card.name} knows {some(strange)}, which this run's student was not built for; "
                "be there before its first question"
            )
        try:
            self._parts.method.check([card])
            agreed, now = (fusion(rule, cards).rule for cards in (self.cards, [*self.cards, card]))
        except SettingsError as error:
            return str(error)
        if agreed != now:
            return (
                f"with {card.name} answers would have to be fused by {now}, and this run fuses "
                f"them by {agreed}; tell what the others tell (class_counts), or join another run"
            )
        return None
