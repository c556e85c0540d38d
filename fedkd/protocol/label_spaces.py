"""What classes are called where not everybody has the same. Knows cards and places, no opinion.

    labels = LabelSpaces.of(cards)
    labels.names              of all classes that somebody knows, (K,)
    labels.indices["north"]    where each of its own K_i classes stands among them

An institution answers for its own classes in its own order; the student and every target have the
federation's. `own` goes one way and `spread` the other.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.protocol.card import Card


def class_names_of(card: Card) -> tuple[str, ...]:
    """What an institution calls its classes: numbers from 0, where it has no names for them."""
    return card.class_names or tuple(str(number) for number in range(card.classes))


@dataclass(frozen=True)
class LabelSpaces:
    """The classes of a federation, and of each institution in it."""

    names: tuple[str, ...]
    """(K,)."""
    indices: Mapping[str, tuple[int, ...]]
    """By institution, (K_i,): the index of each of its classes among ``names``."""

    @classmethod
    def of(cls, cards: Sequence[Card]) -> "LabelSpaces":
        """Everything that somebody knows.

        Names that are all whole numbers stand by size, others by the alphabet, so that the order
        depends on nobody's turn: whoever joins with classes that are known changes nothing.
        """
        names = sorted({name for card in cards for name in class_names_of(card)})
        if all(name.isascii() and name.isdecimal() for name in names):
            names.sort(key=lambda name: (int(name), name))
        index = {name: place for place, name in enumerate(names)}
        places = {card.name: tuple(index[name] for name in class_names_of(card)) for card in cards}
        return cls(tuple(names), places)

    @property
    def identical(self) -> bool:
        """Whether everybody knows every class, in whatever order."""
        return all(len(places) == len(self.names) for places in self.indices.values())

    @property
    def exclusive(self) -> tuple[str, ...]:
        """Names of the classes that one institution alone knows."""
        known = [place for places in self.indices.values() for place in places]
        return tuple(name for place, name in enumerate(self.names) if known.count(place) == 1)

    def to_local(self, institution: str, logits: Tensor) -> Tensor:
        """(B, K) over the federation's classes -> (B, K_i) over an institution's own."""
        if self._same(institution):
            return logits
        return logits[:, torch.tensor(self.indices[institution], device=logits.device)]

    def to_union(self, institution: str, own: Tensor, elsewhere: float) -> Tensor:
        """(B, K_i) over an institution's own classes -> (B, K), ``elsewhere`` where it has none."""
        if self._same(institution):
            return own
        places = torch.tensor(self.indices[institution], device=own.device)
        everything = own.new_full((len(own), len(self.names)), elsewhere)
        return everything.index_copy(1, places, own)

    def _same(self, institution: str) -> bool:
        return self.indices[institution] == tuple(range(len(self.names)))


def abbreviated(names: Sequence[str], most: int = 8) -> str:
    """Names for a line of text, the first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@functools.lru_cache(maxsize=8)
def label_spaces_of(cards: tuple[Card, ...]) -> LabelSpaces:
    """`LabelSpaces.of`, remembered: a run asks at every question, and its cards seldom change."""
    return LabelSpaces.of(cards)


def common_shape(cards: Sequence[Card]) -> tuple[int, int, int]:
    """(C, H, W) on which all institutions agree.

    Raises:
        SettingsError: they do not, or there is none.
    """
    if not cards:
        raise SettingsError("no institution to ask; at least one must take part")
    first = cards[0]
    for card in cards[1:]:
        if card.shape != first.shape:
            raise SettingsError(
                f"{card.name} reads images of {card.shape}, {first.name} of {first.shape}; "
                "all teachers of a run must agree"
            )
    return first.shape


def check_outputs(student: nn.Module, shape: tuple[int, int, int], labels: LabelSpaces) -> None:
    """A student's outputs are the classes that somebody knows, and no others.

    Args:
        student: (B, C, H, W) -> (B, K).
        shape: (C, H, W).
        labels: of the institutions.

    Raises:
        SettingsError: it has more outputs, or fewer.
    """
    was_training = student.training
    with torch.no_grad():
        said = student.eval()(torch.zeros(1, *shape))
    student.train(was_training)
    if said.shape != (1, len(labels.names)):
        raise SettingsError(
            f"the student answers {tuple(said.shape)} to one image and institutions know "
            f"{len(labels.names)} classes ({abbreviated(labels.names)}); a class that nobody knows cannot "
            f"be learned, so build it for {len(labels.names)}"
        )
