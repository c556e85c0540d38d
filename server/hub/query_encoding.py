"""The forms in which one question may travel, and which of them an institution is put. No I/O.

Images by recipe cost some fifty bytes, in the place of one a pixel. They are shown to whoever takes
no recipes, or did not come to the same images by the same source before.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from fedkd.protocol.signals import RECIPES, Ask, Card, Network, Procedural, Recipe, fingerprint
from fedkd.wire.codec import encode
from fedkd.wire.messages import Named, Question
from fedkd.wire.recipes import too_large


@dataclass(frozen=True, eq=False)
class Form:
    """A question as it is said, and the same as bytes."""

    message: Question | Named
    data: bytes


class Letter:
    """A question on its way to several institutions: each form is written once, for all of them.

    Args:
        question: under its number.

    Raises:
        LocalProtocolError: it cannot be asked of anybody.
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        self.shown = Form(question, encode(question))
        """With its images."""

    @property
    def recipe(self) -> Recipe | None:
        """Of its images, where they have one."""
        return self.question.request.recipe if isinstance(self.question.request, Ask) else None

    @cached_property
    def named(self) -> Form:
        """By recipe; the weights of a network came before."""
        return self._by(lambda source: replace(source, weights=None))

    @cached_property
    def taught(self) -> Form:
        """By recipe, with the weights of its network."""
        return self._by(lambda source: source)

    def _by(self, told: Callable[[Network], Network]) -> Form:
        ask, recipe = self.question.request, self.recipe
        if not isinstance(ask, Ask) or recipe is None:
            raise RuntimeError("a question without a recipe was to be put by one")
        if isinstance(recipe.source, Network):
            recipe = replace(recipe, source=told(recipe.source))
        message = Named(self.question.id, recipe, fingerprint(ask.images), ask.signals, ask.exact)
        return Form(message, encode(message))


class Wording:
    """Which form one institution is put, question by question.

    The weights of a network travel once in a session, and not before the images that were shown of
    it have cost as much: one that still learns is then never told, and one that learns no more is
    told at the latest when half of what it cost could have been saved.
    """

    def __init__(self) -> None:
        self._misdrawn: set[str] = set()
        self._known = b""
        self._shown, self._of = 0, b""

    def begin(self) -> None:
        """Another session, in which no weights have come."""
        self._known = b""

    def of(self, letter: Letter, card: Card) -> Form:
        """The form of ``letter`` for the institution of ``card``."""
        recipe = letter.recipe
        if recipe is None or card.recipes != RECIPES or too_large(recipe, card.shape):
            return letter.shown
        if _kind(recipe) in self._misdrawn:
            return letter.shown
        if isinstance(recipe.source, Procedural) or recipe.source.digest == self._known:
            return letter.named
        return self._of_network(letter, recipe.source)

    def misdrawn(self, letter: Letter) -> None:
        """It did not come to these images: whatever this source draws is shown from here on."""
        if letter.recipe is not None:
            self._misdrawn.add(_kind(letter.recipe))

    def _of_network(self, letter: Letter, network: Network) -> Form:
        if network.digest != self._of:
            self._shown, self._of = 0, network.digest
        if network.weights is None or self._shown < network.weights.nbytes:
            self._shown += len(letter.shown.data)
            return letter.shown
        self._known = network.digest
        return letter.taught


def _kind(recipe: Recipe) -> str:
    return recipe.source.name if isinstance(recipe.source, Procedural) else "a network"
