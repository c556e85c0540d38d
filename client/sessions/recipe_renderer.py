"""Render the synthetic samples that a coordinator names by a recipe, at the institution.

Rendering costs time and is not charged. So it begins after the release gate has checked all that
can be known of the query without its samples, and it is bounded, see
`fedkd.client.sessions.rendering_limits`. Rendered samples become an `Ask` like any other: the
release gate then sees the images alone.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fedkd.client.sessions.rendering_limits import (
    MAX_SECONDS,
    InterruptibleRendering,
    RenderingStoppedError,
    UnansweredRendering,
)
from fedkd.procedural import render
from fedkd.process.logs import log_event
from fedkd.protocol import (
    Ask,
    Card,
    FrozenGenerator,
    NamedPrior,
    Reason,
    Recipe,
    Refusal,
    Reply,
    Signal,
)
from fedkd.wire import RecipeQuery

UNDRAWN = Refusal(Reason.UNDRAWN, "these images came out otherwise here; show them")
NOT_NOW = Refusal(Reason.UNDRAWN, "no more images are drawn here for now; show them")

log = logging.getLogger(__name__)


def _no_refusal(
    recipe: Recipe, signals: frozenset[Signal], batch_statistics: bool
) -> Refusal | None:
    return None


def _no_record(recipe: Recipe, signals: frozenset[Signal], refusal: Refusal) -> None:
    pass


@dataclass(frozen=True)
class RecipeGate:
    """What stands before and after rendering. All sessions of an institution share the limit."""

    refusal: Callable[[Recipe, frozenset[Signal], bool], Refusal | None] = _no_refusal
    """Why a query is not rendered, by the release gate; None where it may be."""
    record: Callable[[Recipe, frozenset[Signal], Refusal], None] = _no_record
    """Log in the ledger that a recipe was not rendered, or not as it should be."""
    unanswered: UnansweredRendering = field(default_factory=UnansweredRendering)


class RecipeRenderer:
    """The renderer of one session; it keeps the last generator that a recipe used.

    Args:
        card: the institution's: shape (C, H, W) and the most images that are rendered at once.
        gate: asked before anything is rendered.
        stop: set where rendering shall end.
        seconds: that one recipe may take.
    """

    def __init__(
        self,
        card: Card,
        gate: RecipeGate | None = None,
        stop: threading.Event | None = None,
        seconds: float = MAX_SECONDS,
    ) -> None:
        self._card, self._seconds = card, seconds
        self._gate = gate or RecipeGate()
        self._stop = stop or threading.Event()
        self._generator: FrozenGenerator | None = None

    def answer(
        self, query: RecipeQuery, answer: Callable[[Ask], Reply | Refusal]
    ) -> Reply | Refusal:
        """The answer to the rendered query, or a refusal that asks for the images.

        Args:
            query: valid in its session; nothing else is trusted.
            answer: to an `Ask`.
        """
        # Also of a query that is refused: its weights are not sent again.
        recipe = self._complete(query.recipe)
        if refusal := self._gate.refusal(recipe, query.signals, query.batch_statistics):
            return refusal
        if recipe.count > self._card.largest_batch or self._gate.unanswered.exhausted:
            return self._unrendered(query, "too many images, or too many in vain", NOT_NOW)
        began = time.monotonic()
        ask = self._render(query, recipe)
        seconds = time.monotonic() - began
        reply = ask if isinstance(ask, Refusal) else answer(ask)
        if isinstance(reply, Refusal):
            self._gate.unanswered.add(seconds)
        return reply

    def _render(self, query: RecipeQuery, recipe: Recipe) -> Ask | Refusal:
        try:
            with InterruptibleRendering(self._stop, self._seconds):
                images = render(recipe, self._card.shape)
            ask = query.resolve(images)
        except RenderingStoppedError as error:
            return self._unrendered(query, str(error))
        except Exception as error:  # other layers, or a prior that is not known here
            return self._unrendered(query, type(error).__name__)
        return ask or self._unrendered(query, "other images")

    def _unrendered(self, query: RecipeQuery, reason: str, refusal: Refusal = UNDRAWN) -> Refusal:
        log_event(
            log,
            "recipe_not_rendered",
            logging.WARNING,
            reason=reason,
            source="prior" if isinstance(query.recipe.source, NamedPrior) else "network",
        )
        self._gate.record(query.recipe, query.signals, refusal)
        return refusal

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
