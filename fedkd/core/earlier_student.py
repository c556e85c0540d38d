"""Interface of the student of an earlier run: a frozen teacher at the coordinator, free to ask."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, overload

from torch import Tensor, nn

from fedkd.protocol import Answers, Ask, Card, LabelSpaces, PullBack, Reply, Request, Signal


class EarlierStudent(Protocol):
    """Answers for the classes of an earlier run, in the place of its institutions.

    It lies at the coordinator: asking it costs nobody's budget, and discloses nothing.
    """

    @property
    def card(self) -> Card:
        """Its classes and signals, as the card of an institution."""

    @property
    def network(self) -> nn.Module:
        """(B, C, H, W) in [0, 1] -> (B, K_old); never changed."""

    def answer(self, request: Ask | PullBack) -> Reply:
        """What an institution would reply, in float32."""

    def differentiable(self, images: Tensor, signals: frozenset[Signal]) -> Mapping[Signal, Tensor]:
        """Signals with their graph to ``images`` (B, C, H, W) in [0, 1], where these lie."""


def slices_of(earlier: EarlierStudent | None, labels: LabelSpaces) -> list[list[int]]:
    """Outputs of the earlier student's classes, and of the institutions'; none without one."""
    if earlier is None:
        return []
    others = (own for name, own in labels.indices.items() if name != earlier.card.name)
    new = {place for own in others for place in own}
    return [sorted(labels.indices[earlier.card.name]), sorted(new)]


class TeacherCards(Sequence[Card]):
    """The card of the earlier student, if any, and those of the institutions; a live view.

    Args:
        earlier: None: the institutions alone.
        cards: of the institutions; whoever answers for them may add to it.
    """

    def __init__(self, earlier: EarlierStudent | None, cards: Sequence[Card]) -> None:
        self._first = () if earlier is None else (earlier.card,)
        self._cards = cards

    @overload
    def __getitem__(self, index: int) -> Card: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Card, ...]: ...

    def __getitem__(self, index: int | slice) -> Card | tuple[Card, ...]:
        return (*self._first, *self._cards)[index]

    def __iter__(self) -> Iterator[Card]:
        yield from self._first
        yield from self._cards

    def __len__(self) -> int:
        return len(self._first) + len(self._cards)


def remote_part(earlier: EarlierStudent | None, request: Request) -> Request:
    """The part of a request that is for institutions."""
    if earlier is None or isinstance(request, Ask):
        return request
    return {name: pull for name, pull in request.items() if name != earlier.card.name}


def with_local_answer(
    earlier: EarlierStudent | None, request: Request, answers: Answers
) -> Answers:
    """The institutions' answers, and that of the earlier student to the same request.

    Where no institution answers a question, it does not either: the run has lost them all.
    """
    if earlier is None:
        return answers
    name = earlier.card.name
    if isinstance(request, Ask):
        return {name: earlier.answer(request), **answers} if answers else answers
    own = {name: earlier.answer(request[name])} if name in request else {}
    return {**own, **answers}
