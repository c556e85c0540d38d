"""Messages of a session between an institution and the coordinator, and their validation.

    institution                coordinator
        Hello          ->                        token and card
                       <-      Welcome           accepted
                       <-      Query             an Ask or a PullBack, numbered
                       <-      RecipeQuery       or an Ask with a recipe instead of images
        Answer         ->                        a Reply, under the same number
        Declined       ->                        or a Refusal
        Close         <->      Close             the end, from either

Numbers of queries increase within a session; a query whose images could not be rendered is repeated
under its number, with the images. `Invalid` is never sent: it is what the codec returns for bytes
that are none of these.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from fedkd.errors import LocalProtocolError
from fedkd.protocol import (
    Ask,
    Card,
    PullBack,
    Recipe,
    Refusal,
    Reply,
    Signal,
    card_violation,
    fingerprint,
)
from fedkd.wire.logit_packing import PACKING_VERSION
from fedkd.wire.recipes import check_recipe

VERSION = 1
"""Protocol version. Two ends of different versions refuse each other."""
MAX_TEXT_LENGTH = 500
"""Characters of a reason that are shown; the rest is cut off."""


@dataclass(frozen=True)
class Hello:
    """An institution authenticates and presents its card."""

    version: int
    token: str = field(repr=False)
    """Of the run, handed out on the control plane; never printed."""
    card: Card


@dataclass(frozen=True)
class Welcome:
    """The coordinator accepts the institution."""

    version: int
    packing: int = PACKING_VERSION
    """The `PACKING_VERSION` in which it reads logits; 0: unpacked."""


@dataclass(frozen=True, eq=False)
class Query:
    """A query of the coordinator; ``id`` is 1 or more."""

    id: int
    request: Ask | PullBack


@dataclass(frozen=True, eq=False)
class RecipeQuery:
    """A query about images that the institution renders from a recipe; ``id`` is 1 or more."""

    id: int
    recipe: Recipe
    images: bytes
    """Fingerprint of the images."""
    signals: frozenset[Signal]
    exact: bool = False
    batch_statistics: bool = False

    def resolve(self, images: Tensor) -> Ask | None:
        """The `Ask` about the rendered ``images``; None if their fingerprint differs."""
        if fingerprint(images) != self.images:
            return None
        return Ask(images, self.signals, self.exact, batch_statistics=self.batch_statistics)


@dataclass(frozen=True, eq=False)
class Answer:
    """The institution's reply to the query of that number."""

    id: int
    reply: Reply


@dataclass(frozen=True)
class Declined:
    """The institution's refusal of the query of that number."""

    id: int
    refusal: Refusal


@dataclass(frozen=True)
class Close:
    """The end of the session; ``reason`` may be shown at the other side."""

    reason: str


@dataclass(frozen=True)
class Invalid:
    """Bytes that are no message; ``reason`` repeats none of them."""

    reason: str


FromInstitution: TypeAlias = Hello | Answer | Declined | Close
FromCoordinator: TypeAlias = Welcome | Query | RecipeQuery | Close
Message: TypeAlias = FromInstitution | FromCoordinator


def check(message: Message) -> None:
    """Raises LocalProtocolError where ``message`` is malformed.

    Tensors are checked where they are written and read, in `fedkd.wire.tensors`.
    """
    if isinstance(message, Query | RecipeQuery | Answer | Declined) and message.id < 1:
        raise LocalProtocolError("a query without a number")
    match message:
        case Hello(card=card):
            if why := card_violation(card):
                raise LocalProtocolError(why)
        case Query(request=Ask(signals=signals)) | RecipeQuery(signals=signals) if not signals:
            raise LocalProtocolError("a query for no signal")
        case RecipeQuery(recipe=recipe, images=digest):
            check_recipe(recipe, digest)
        case Query(request=PullBack(images, cotangents)):
            if not cotangents:
                raise LocalProtocolError("a pull-back of no signal")
            if any(each.dim() and len(each) != len(images) for each in cotangents.values()):
                raise LocalProtocolError("cotangents of another number of images than came")


def one_line(text: str) -> str:
    """``text`` safe to print: printable characters, at most MAX_TEXT_LENGTH."""
    return "".join(each if each.isprintable() else " " for each in text[:MAX_TEXT_LENGTH])
