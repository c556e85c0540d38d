"""The participants of a run over a hub: sends them requests, adds late joiners that fit.

Institutions may join and leave at any time. A late joiner takes part from the next question on, if
it fits the run; one that left is asked again when it is back, and its answers stay.
"""

from collections.abc import Callable, Iterable, Sequence

from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.core.earlier_student import TeacherCards
from fedkd.errors import SettingsError
from fedkd.experiment import ADAPTIVE, Linger
from fedkd.process.memory_estimate import check_memory, fusion_bytes
from fedkd.protocol import Answers, Ask, Card, LabelSpaces, Request, abbreviated, class_names_of
from fedkd.protocol.label_spaces import sample_mismatch
from fedkd.server.coordinator import Ingredients
from fedkd.server.hub.hub import Hub
from fedkd.server.run.missing_institutions import Lost


def teacher_mismatch(card: Card, teachers: Sequence[Card]) -> str | None:
    """Why a student built for ``teachers`` cannot learn from that of ``card``; None if it can."""
    # A number that the first of them does not know may stand on another one's card.
    if why := next(filter(None, (sample_mismatch(card, ours) for ours in teachers)), None):
        return f"{why}; bring a teacher that agrees with those of this run"
    if strange := sorted(set(class_names_of(card)) - set(LabelSpaces.of(teachers).names)):
        return (
            f"{card.name} knows {abbreviated(strange)}, which this run's student was not built "
            "for; be there before its first question"
        )
    return None


class RemoteInstitutions:
    """The institutions that take part in a run.

    Args:
        hub: open.
        parts: of the run; its method and rule decide who fits, its quorum when a question starts.
        cards: of those that take part from the beginning.
        timeout: seconds that one question may take.
        linger: of the others, once a quorum has answered, see `fedkd.server.hub.linger`.
    """

    def __init__(
        self,
        hub: Hub,
        parts: Ingredients,
        cards: Iterable[Card],
        timeout: float,
        linger: Linger = ADAPTIVE,
    ) -> None:
        self.cards = list(cards)
        """Of all institutions that ever took part, in the order in which they joined."""
        self.answering = 0
        """Institutions that answered the last question."""
        self.fusion_failure: Callable[[Card], str | None] = lambda card: None
        """Why answers of a late joiner cannot be fused with the others', set by the driver."""
        self._hub, self._parts = hub, parts
        self._timeout, self._linger = timeout, linger

    def answer(self, request: Request) -> tuple[Answers, Lost]:
        """The replies, and the reasons of those who are missing; late joiners are asked too."""
        self._admit_newcomers()
        each = {c.name: request for c in self.cards} if isinstance(request, Ask) else request
        answers, lost = self._hub.ask(
            each, self._timeout, quorum=self._parts.quorum, linger=self._linger
        )
        self.answering = len(answers)
        return answers, lost

    def _admit_newcomers(self) -> None:
        names = {card.name for card in self.cards}
        for card in self._hub.cards:
            if card.name in names:
                continue
            if why := self._mismatch(card):
                self._hub.turn_away(card, why)
            else:
                self.cards.append(card)

    def _mismatch(self, card: Card) -> str | None:
        """Why the institution of ``card`` does not fit this run; None if it does."""
        plan, teachers = self._parts.plan, TeacherCards(self._parts.earlier, self.cards)
        if why := teacher_mismatch(card, teachers):
            return why
        try:
            self._parts.method.check([card], plan.batch_statistics)
            plan.check_cards([card])
            agreed, now = (
                build_fusion(plan.rule, cards, plan.prior).rule
                for cards in (self.cards, [*self.cards, card])
            )
            check_memory({f"fusing answers of {card.name} too": self._fusion_bytes(now)})
        except SettingsError as error:
            return str(error)
        if agreed != now:
            return (
                f"with {card.name} answers would have to be fused by {now}, and this run fuses "
                f"them by {agreed}; tell what the others tell (class_counts), or join another run"
            )
        if why := self.fusion_failure(card):
            return f"answers of {card.name} cannot be fused with those of the others: {why}"
        return None

    def _fusion_bytes(self, rule: str) -> int:
        """Of a fusion with one more institution."""
        classes, batch = len(LabelSpaces.of(self.cards).names), self._parts.plan.batch
        return fusion_bytes(len(self.cards) + 1, batch, classes, pool=rule == "log_linear_pool")
