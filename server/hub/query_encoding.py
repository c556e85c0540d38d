"""Encodings of a query, with samples or by recipe, and the choice of one per institution.

A recipe takes some fifty bytes, in place of one byte per pixel. The samples themselves are sent to
an institution that accepts no recipes, or that could not reproduce samples of the same source.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from fedkd.protocol import (
    RECIPE_VERSION,
    Ask,
    Card,
    FrozenGenerator,
    NamedPrior,
    Recipe,
    fingerprint,
)
from fedkd.wire import Query, RecipeQuery, encode, exceeds_limits


@dataclass(frozen=True, eq=False)
class QueryEncoding:
    """A query as a message and as bytes."""

    message: Query | RecipeQuery
    data: bytes


class QueryEncodings:
    """All encodings of a query, each computed once for all institutions.

    Args:
        query: the message, with its number.

    Raises:
        LocalProtocolError: it is not a valid query.
    """

    def __init__(self, query: Query) -> None:
        self.query = query
        self.explicit = QueryEncoding(query, encode(query))
        """With its samples."""

    @property
    def recipe(self) -> Recipe | None:
        """Of its samples, if they have one."""
        return self.query.request.recipe if isinstance(self.query.request, Ask) else None

    @cached_property
    def by_recipe(self) -> QueryEncoding:
        """By recipe, for an institution that already has the weights of its network."""
        return self._recipe_encoding(lambda source: replace(source, weights=None))

    @cached_property
    def by_recipe_with_weights(self) -> QueryEncoding:
        """By recipe, with the weights of its network."""
        return self._recipe_encoding(lambda source: source)

    def _recipe_encoding(
        self, weights_of: Callable[[FrozenGenerator], FrozenGenerator]
    ) -> QueryEncoding:
        ask, recipe = self.query.request, self.recipe
        if not isinstance(ask, Ask) or recipe is None:
            raise RuntimeError("this query has no recipe to be encoded by")
        if isinstance(recipe.source, FrozenGenerator):
            recipe = replace(recipe, source=weights_of(recipe.source))
        message = RecipeQuery(
            *(self.query.id, recipe, fingerprint(ask.images), ask.signals, ask.exact),
            ask.batch_statistics,
        )
        return QueryEncoding(message, encode(message))


class EncodingSelector:
    """Chooses the encoding of each query for one institution.

    The weights of a generator network are sent once in a session, and only after the samples that
    were sent of it have cost as many bytes. So the weights of a generator that is still trained are
    never sent; those of a frozen one are sent before twice the necessary bytes were spent.
    """

    def __init__(self) -> None:
        self._failed_sources: set[str] = set()
        self._sent_digest = b""
        self._explicit_bytes, self._digest = 0, b""

    def start_session(self) -> None:
        """Begins another session, in which no weights were sent yet."""
        self._sent_digest = b""

    def select(self, encodings: QueryEncodings, card: Card) -> QueryEncoding:
        """The one of ``encodings`` for the institution of ``card``."""
        recipe = encodings.recipe
        if recipe is None or card.recipes != RECIPE_VERSION or exceeds_limits(recipe, card.shape):
            return encodings.explicit
        if _source_name(recipe) in self._failed_sources:
            return encodings.explicit
        if isinstance(recipe.source, NamedPrior) or recipe.source.digest == self._sent_digest:
            return encodings.by_recipe
        return self._select_for_network(encodings, recipe.source)

    def recipe_failed(self, encodings: QueryEncodings) -> None:
        """The institution could not reproduce these samples: no more recipes of this source."""
        if encodings.recipe is not None:
            self._failed_sources.add(_source_name(encodings.recipe))

    def _select_for_network(
        self, encodings: QueryEncodings, network: FrozenGenerator
    ) -> QueryEncoding:
        if network.digest != self._digest:
            self._explicit_bytes, self._digest = 0, network.digest
        if network.weights is None or self._explicit_bytes < network.weights.nbytes:
            self._explicit_bytes += len(encodings.explicit.data)
            return encodings.explicit
        self._sent_digest = network.digest
        return encodings.by_recipe_with_weights


def _source_name(recipe: Recipe) -> str:
    return recipe.source.name if isinstance(recipe.source, NamedPrior) else "a network"
