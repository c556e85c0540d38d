"""What the two ends of a session say to each other. Knows neither bytes nor who may say what when.

    institution                coordinator
        Hello          ->                        who I am
                       <-      Welcome           you are heard
                       <-      Question          an Ask or a PullBack, numbered
                       <-      Named             or an Ask whose images are named by recipe
        Answer         ->                        what was released, under the same number
        Declined       ->                        or why nothing was
        Close         <->      Close             the end, from either

A question's number rises within a session; one whose images could not be drawn is put again under
its number, with the images. `Invalid` is never said: it is what a codec makes of
bytes that are none of these.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from fedkd.errors import LocalProtocolError
from fedkd.protocol import Ask, Card, PullBack, Recipe, Refusal, Reply, Signal, fingerprint
from fedkd.wire.packed_rows import PACKING_VERSION
from fedkd.wire.recipes import check_recipe

VERSION = 1
"""Of this vocabulary. Two ends of different versions do not talk."""
MAX_TEXT_LENGTH = 500
"""Characters of a reason that are shown."""
MAX_NAME_LENGTH = 64
"""Characters of the name of an institution or of a class."""
MAX_CLASSES = 65_536
"""Of one institution: a card with more would have a coordinator build a giant."""


@dataclass(frozen=True)
class Hello:
    """An institution introduces itself."""

    version: int
    token: str = field(repr=False)
    """Of the run, handed out on the control plane; never printed."""
    card: Card


@dataclass(frozen=True)
class Welcome:
    """The coordinator takes the institution in."""

    version: int
    packing: int = PACKING_VERSION
    """The `PACKING_VERSION` in which it reads logits; 0: it wants them as they are."""


@dataclass(frozen=True, eq=False)
class Query:
    """The coordinator asks; ``id`` is 1 or more."""

    id: int
    request: Ask | PullBack


@dataclass(frozen=True, eq=False)
class RecipeQuery:
    """The coordinator asks about images that the institution draws; ``id`` is 1 or more."""

    id: int
    recipe: Recipe
    images: bytes
    """Fingerprint of the images that are meant."""
    signals: frozenset[Signal]
    exact: bool = False

    def resolve(self, images: Tensor) -> Ask | None:
        """The question, if ``images`` are those that are meant."""
        if fingerprint(images) != self.images:
            return None
        return Ask(images, self.signals, self.exact)


@dataclass(frozen=True, eq=False)
class Answer:
    """The institution answers the question of that number."""

    id: int
    reply: Reply


@dataclass(frozen=True)
class Declined:
    """The institution does not answer the question of that number."""

    id: int
    refusal: Refusal


@dataclass(frozen=True)
class Close:
    """The end of the session; ``reason`` is fit for the other side's screen."""

    reason: str


@dataclass(frozen=True)
class Invalid:
    """Bytes that say nothing; ``reason`` repeats none of them."""

    reason: str


FromInstitution: TypeAlias = Hello | Answer | Declined | Close
FromCoordinator: TypeAlias = Welcome | Query | RecipeQuery | Close
Message: TypeAlias = FromInstitution | FromCoordinator


def check(message: Message) -> None:
    """Raises LocalProtocolError where ``message`` says something that no message may.

    What a tensor may be is checked where tensors are written and read, in `fedkd.wire.tensors`.
    """
    if isinstance(message, Query | RecipeQuery | Answer | Declined) and message.id < 1:
        raise LocalProtocolError("a question without a number")
    match message:
        case Hello(card=card):
            _check_card(card)
        case Query(request=Ask(signals=signals)) | RecipeQuery(signals=signals) if not signals:
            raise LocalProtocolError("a question that asks for no signal")
        case RecipeQuery(recipe=recipe, images=digest):
            check_recipe(recipe, digest)
        case Query(request=PullBack(images, cotangents)):
            if not cotangents:
                raise LocalProtocolError("a pull-back of no signal")
            if any(each.dim() and len(each) != len(images) for each in cotangents.values()):
                raise LocalProtocolError("cotangents of another number of images than came")


def _check_card(card: Card) -> None:
    if not (0 < len(card.name) <= MAX_NAME_LENGTH and card.name.isprintable()):
        raise LocalProtocolError(
            f"a name must be 1 to {MAX_NAME_LENGTH} printable characters, got {len(card.name)}"
        )
    if min(card.classes, *card.shape, card.largest_batch) < 1:
        raise LocalProtocolError("a card with no class, no pixel or no image in a batch")
    if card.classes > MAX_CLASSES:
        raise LocalProtocolError(f"a card with more than {MAX_CLASSES} classes")
    if card.class_counts is not None and len(card.class_counts) != card.classes:
        raise LocalProtocolError("a card with class counts for another number of classes")
    if card.class_names is not None:
        _check_class_names(card.class_names, card.classes)


def _check_class_names(names: tuple[str, ...], classes: int) -> None:
    if len(names) != classes or len(set(names)) != classes:
        raise LocalProtocolError("a card must name each of its classes once, no two alike")
    if not all(0 < len(name) <= MAX_NAME_LENGTH and name.isprintable() for name in names):
        raise LocalProtocolError(
            f"names of classes must be 1 to {MAX_NAME_LENGTH} printable characters"
        )


def one_line(text: str) -> str:
    """``text`` fit for a screen: printable, at most MAX_TEXT_LENGTH characters."""
    return "".join(each if each.isprintable() else " " for each in text[:MAX_TEXT_LENGTH])
