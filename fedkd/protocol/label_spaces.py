"""Label spaces: the union of the institutions' classes, and the mapping between each and the union.

    labels = LabelSpaces.of(cards)
    labels.names               of all classes that some institution knows, (K,)
    labels.indices["north"]    index of each of its own K_i classes in the union
    labels.tasks               where there are several tasks: which, with their classes

An institution answers for its own classes in its own order; the student and every target have the
union's. `LabelSpaces.to_local` maps one way and `LabelSpaces.to_union` the other.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.protocol.card import Card
from fedkd.protocol.tasks import NamedTask, in_order, output_names_of, task_slices, union_of_tasks


def class_names_of(card: Card) -> tuple[str, ...]:
    """Names of an institution's outputs: classes, from 0 where its card names none, or numbers.

    Of several tasks each is called ``task: class``; of an embedding its dimensions are counted.
    """
    if card.numbers:
        return tuple(number.name for number in card.numbers)
    if card.tasks:
        return output_names_of(card.tasks)
    return card.class_names or tuple(str(number) for number in range(card.classes))


@dataclass(frozen=True)
class LabelSpaces:
    """The union of all institutions' classes, and where each institution's classes are in it."""

    names: tuple[str, ...]
    """(K,) of the union."""
    indices: Mapping[str, tuple[int, ...]]
    """By institution, (K_i,): the index of each of its classes among ``names``."""
    tasks: tuple[NamedTask, ...] = ()
    """Of which there are several; their outputs side by side are ``names``."""

    @classmethod
    def of(cls, cards: Sequence[Card]) -> "LabelSpaces":
        """The union of the classes on these cards.

        Names that are all whole numbers are sorted by size, others by the alphabet, so that the
        order does not depend on the order of the cards: who joins with known classes changes
        nothing.
        """
        tasks = union_of_tasks([card.tasks for card in cards])
        known = {name for card in cards for name in class_names_of(card)}
        names = output_names_of(tasks) if tasks else in_order(known)
        position = {name: index for index, name in enumerate(names)}
        # A student is as wide as the widest embedding, and all of it is taught by everybody.
        indices = {
            card.name: tuple(
                position[name] for name in (names if card.embedding else class_names_of(card))
            )
            for card in cards
        }
        return cls(names, indices, tasks)

    @property
    def slices(self) -> dict[str, slice]:
        """Where the outputs of each task stand, by its name; empty where there is no other task."""
        return task_slices(self.tasks)

    @property
    def identical(self) -> bool:
        """Whether every institution knows every class, in whatever order."""
        return all(len(indices) == len(self.names) for indices in self.indices.values())

    @property
    def exclusive(self) -> tuple[str, ...]:
        """Names of the classes that exactly one institution knows."""
        known = [index for indices in self.indices.values() for index in indices]
        return tuple(name for index, name in enumerate(self.names) if known.count(index) == 1)

    def to_local(self, institution: str, logits: Tensor) -> Tensor:
        """(B, K) over the union's classes -> (B, K_i) over an institution's own."""
        if self._same(institution):
            return logits
        return logits[:, torch.tensor(self.indices[institution], device=logits.device)]

    def to_union(self, institution: str, local: Tensor, fill: float) -> Tensor:
        """(B, K_i) over an institution's own classes -> (B, K), ``fill`` for classes it lacks."""
        if self._same(institution):
            return local
        indices = torch.tensor(self.indices[institution], device=local.device)
        union = local.new_full((len(local), len(self.names)), fill)
        return union.index_copy(1, indices, local)

    def comparable(self, institution: str, union: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Answers of the student, (B, K), and of an institution, (B, K_i), to be compared.

        Both in the institution's own classes; of several tasks in all of them, NaN where it
        answers nothing.
        """
        if self.tasks:
            return union, self.to_union(institution, local, torch.nan)
        return self.to_local(institution, union), local

    def _same(self, institution: str) -> bool:
        return self.indices[institution] == tuple(range(len(self.names)))


def abbreviated(names: Sequence[str], most: int = 8) -> str:
    """The first few of many names, as one line of text."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@functools.lru_cache(maxsize=8)
def label_spaces_of(cards: tuple[Card, ...]) -> LabelSpaces:
    """`LabelSpaces.of`, cached: a run needs it at every query, and its cards seldom change."""
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
        if why := sample_mismatch(card, first):
            raise SettingsError(f"{why}; all teachers of a run must agree")
    return first.shape


def sample_mismatch(card: Card, first: Card) -> str | None:
    """Why the teacher of ``card`` reads other samples, or predicts another kind; None: it agrees.

    Columns are the same in name, range and order, since a value in [0, 1] means nothing else.
    """
    if card.shape != first.shape:
        return f"{card.name} reads images of {card.shape}, {first.name} of {first.shape}"
    if card.columns != first.columns:
        pairs = zip(card.columns, first.columns, strict=False)
        place = next((i for i, (own, other) in enumerate(pairs) if own != other), 0)
        return (
            f"{card.name} and {first.name} differ in column {place} of their rows; give both the "
            "same schema"
        )
    if card.predicts != first.predicts:
        return (
            f"{card.name} predicts {card.predicts} and {first.name} {first.predicts}; of several "
            "tasks every institution names its own"
        )
    known = {number.name: number for number in first.numbers}
    for number in card.numbers:
        other = known.get(number.name, number)
        if (number.unit, number.low, number.high) != (other.unit, other.low, other.high):
            return f"{card.name} and {first.name} give {number.name} another unit or range"
    return None


def check_growth(earlier: Card, cards: Sequence[Card]) -> None:
    """Check that names of classes mean the same to an earlier student and to institutions.

    Args:
        earlier: the student's.
        cards: of the institutions that it goes on with.

    Raises:
        SettingsError: an institution has its name, or names a class as the earlier student does
            but for case or space.
    """
    known = {name.strip().casefold(): name for name in class_names_of(earlier)}
    for card in cards:
        if card.name == earlier.name:
            raise SettingsError(
                f"an institution is called {card.name!r}, as the student that this run goes on "
                "with; give it another name"
            )
        for name in class_names_of(card):
            if (old := known.get(name.strip().casefold(), name)) != name:
                raise SettingsError(
                    f"{card.name} has a class {name!r}, and the {earlier.name} has {old!r}; write "
                    "a class alike everywhere, or name them apart"
                )


def new_classes(earlier: Card, cards: Sequence[Card]) -> tuple[str, ...]:
    """Names of the institutions' classes that an earlier student does not know.

    Raises:
        SettingsError: there is none.
    """
    known = set(class_names_of(earlier))
    names = LabelSpaces.of(cards).names
    if new := tuple(name for name in names if name not in known):
        return new
    raise SettingsError(
        f"these institutions bring no new class: {abbreviated(names)} are classes of the "
        f"{earlier.name} already. Name classes on the cards where numbers from 0 mean others"
    )


def check_outputs(student: nn.Module, shape: tuple[int, int, int], labels: LabelSpaces) -> None:
    """Check that a student has one output for each class of the union.

    Args:
        student: (B, C, H, W) -> (B, K).
        shape: (C, H, W).
        labels: of the institutions.

    Raises:
        SettingsError: it has more outputs, or fewer.
    """
    was_training = student.training
    with torch.no_grad():
        logits = student.eval()(torch.zeros(1, *shape))
    student.train(was_training)
    if logits.shape != (1, len(labels.names)):
        raise SettingsError(
            f"the student answers {tuple(logits.shape)} to one image and institutions know "
            f"{len(labels.names)} classes ({abbreviated(labels.names)}); a class that nobody knows "
            f"cannot be learned, so build it for {len(labels.names)}"
        )
