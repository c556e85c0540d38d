"""Render the synthetic samples that a coordinator names by a recipe, at the institution.

Rendered samples become an `Ask` like any other: the release gate sees the images alone.
"""

import logging

from fedkd.core.logs import log_event
from fedkd.procedural import render
from fedkd.protocol import Ask, FrozenGenerator, NamedPrior, Reason, Recipe, Refusal
from fedkd.wire import RecipeQuery

UNDRAWN = Refusal(Reason.UNDRAWN, "these images came out otherwise here; show them")

log = logging.getLogger(__name__)


class RecipeRenderer:
    """The renderer of one session; it keeps the last generator that a recipe used.

    Args:
        shape: (C, H, W) of the images.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._generator: FrozenGenerator | None = None

    def render(self, query: RecipeQuery) -> Ask | Refusal:
        """The query with its images, or a refusal that asks for the images. Never raises.

        Args:
            query: valid in its session, which bounds what is rendered; nothing else is trusted.
        """
        try:
            ask = query.resolve(render(self._complete(query.recipe), self._shape))
        except Exception as error:  # other layers, or a prior that is not known here
            log_event(log, "recipe_not_rendered", logging.WARNING, reason=type(error).__name__)
            return UNDRAWN
        if ask is None:
            log_event(
                log,
                "recipe_not_rendered",
                logging.WARNING,
                reason="other images",
                source=_source_kind(query.recipe),
            )
        return ask or UNDRAWN

    def _complete(self, recipe: Recipe) -> Recipe:
        """The recipe with the weights of its generator, which may have come with an earlier one."""
        source = recipe.source
        if isinstance(source, NamedPrior):
            return recipe
        if source.weights is not None:
            self._generator = source
        elif self._generator is not None and self._generator.digest == source.digest:
            return Recipe(self._generator, recipe.seed, recipe.count, recipe.kept)
        return recipe


def _source_kind(recipe: Recipe) -> str:
    return "prior" if isinstance(recipe.source, NamedPrior) else "network"
