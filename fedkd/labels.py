"""What classes are called where not everybody has the same. Knows cards and places, no opinion.

    labels = Labels.of(cards)
    labels.names              of all classes that somebody knows, (K,)
    labels.places["north"]    where each of its own K_i classes stands among them

An institution answers for its own classes in its own order; the student and every target have the
federation's. `own` goes one way and `spread` the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.signals import Card


def names_of(card: Card) -> tuple[str, ...]:
    """What an institution calls its classes: numbers from 0, where it has no names for them."""
    return card.class_names or tuple(str(number) for number in range(card.classes))


@dataclass(frozen=True)
class Labels:
    """The classes of a federation, and of each institution in it."""

    names: tuple[str, ...]
    """(K,)."""
    places: Mapping[str, tuple[int, ...]]
    """By institution, (K_i,): the index of each of its classes among ``names``."""

    @classmethod
    def of(cls, cards: Sequence[Card]) -> "Labels":
        """Everything that somebody knows.

        Names that are all whole numbers stand by size. Others stand as the first institution has
        them, by name of institution, then what is new at the second, and so on.
        """
        ordered = sorted(cards, key=lambda card: card.name)
        names = list(dict.fromkeys(name for card in ordered for name in names_of(card)))
        if all(name.isascii() and name.isdecimal() for name in names):
            names.sort(key=lambda name: (int(name), name))
        index = {name: place for place, name in enumerate(names)}
        places = {card.name: tuple(index[name] for name in names_of(card)) for card in cards}
        return cls(tuple(names), places)

    def joined(self, card: Card) -> "Labels":
        """With one more institution. The classes stay: a student cannot grow outputs.

        Raises:
            SettingsError: it knows a class that nobody knew when the run began.
        """
        index = {name: place for place, name in enumerate(self.names)}
        if strange := [name for name in names_of(card) if name not in index]:
            raise SettingsError(
                f"{card.name} knows {some(strange)}, which the student was not built for; "
                f"have it there before the first question, or join with classes among "
                f"{some(self.names)}"
            )
        places = tuple(index[name] for name in names_of(card))
        return Labels(self.names, {**self.places, card.name: places})

    @property
    def alike(self) -> bool:
        """Whether everybody knows every class, in whatever order."""
        return all(len(places) == len(self.names) for places in self.places.values())

    @property
    def alone(self) -> tuple[str, ...]:
        """Names of the classes that one institution alone knows."""
        known = [place for places in self.places.values() for place in places]
        return tuple(name for place, name in enumerate(self.names) if known.count(place) == 1)

    def own(self, institution: str, said: Tensor) -> Tensor:
        """(B, K) over the federation's classes -> (B, K_i) over an institution's own."""
        if self._same(institution):
            return said
        return said[:, torch.tensor(self.places[institution], device=said.device)]

    def spread(self, institution: str, own: Tensor, elsewhere: float) -> Tensor:
        """(B, K_i) over an institution's own classes -> (B, K), ``elsewhere`` where it has none."""
        if self._same(institution):
            return own
        places = torch.tensor(self.places[institution], device=own.device)
        everything = own.new_full((len(own), len(self.names)), elsewhere)
        return everything.index_copy(1, places, own)

    def _same(self, institution: str) -> bool:
        return self.places[institution] == tuple(range(len(self.names)))


def some(names: Sequence[str], most: int = 8) -> str:
    """Names for a line of text, the first few of many."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
