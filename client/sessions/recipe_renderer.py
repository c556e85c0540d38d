"""Where an institution draws the images that a coordinator names. Knows no teacher and no policy.

What is drawn is a question like any other: it goes to the door, which sees the images alone.
"""

import logging

from fedkd.core.logs import say
from fedkd.procedural import render
from fedkd.protocol import Ask, FrozenGenerator, NamedPrior, Reason, Recipe, Refusal
from fedkd.wire import RecipeQuery

UNDRAWN = Refusal(Reason.UNDRAWN, "these images came out otherwise here; show them")

log = logging.getLogger(__name__)


class RecipeRenderer:
    """Of one session: it keeps the last network by which images were named.

    Args:
        shape: (C, H, W) of the images.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._network: FrozenGenerator | None = None

    def drawn(self, named: RecipeQuery) -> Ask | Refusal:
        """The question with its images, or that they have to be shown. Never raises.

        Args:
            named: lawful in its session, which bounds what is drawn; nothing else of it is trusted.
        """
        try:
            asked = named.resolve(render(self._complete(named.recipe), self._shape))
        except Exception as error:  # a network of other layers, a prior that is not known here
            say(log, "undrawn", logging.WARNING, reason=type(error).__name__)
            return UNDRAWN
        if asked is None:
            say(log, "undrawn", logging.WARNING, reason="other images", source=_name(named.recipe))
        return asked or UNDRAWN

    def _complete(self, recipe: Recipe) -> Recipe:
        """With the weights of its network, which may have come before."""
        source = recipe.source
        if isinstance(source, NamedPrior):
            return recipe
        if source.weights is not None:
            self._network = source
        elif self._network is not None and self._network.digest == source.digest:
            return Recipe(self._network, recipe.seed, recipe.count, recipe.kept)
        return recipe


def _name(recipe: Recipe) -> str:
    return "prior" if isinstance(recipe.source, NamedPrior) else "network"
