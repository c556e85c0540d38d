"""The fusion of institutions by a rule, for what their cards say that they predict."""

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

from fedkd.aggregation.embedding_fusion import EmbeddingFusion, build_embedding_fusion
from fedkd.aggregation.fusion_rules import RuleFusion, build_class_fusion
from fedkd.aggregation.logit_adjustment import refuse_prior
from fedkd.aggregation.number_fusion import NumberFusion, build_number_fusion
from fedkd.aggregation.task_fusion import TaskFusion, build_task_fusion
from fedkd.core.run_plan import AUTO, ClassPrior
from fedkd.protocol import Card

AnyFusion: TypeAlias = RuleFusion | NumberFusion | TaskFusion | EmbeddingFusion


def _of_numbers(rule: str, cards: Sequence[Card], prior: ClassPrior) -> NumberFusion:
    refuse_prior(prior, "these teachers predict numbers")
    return build_number_fusion(rule, cards)


def _of_embeddings(rule: str, cards: Sequence[Card], prior: ClassPrior) -> EmbeddingFusion:
    refuse_prior(prior, "these teachers output an embedding")
    return build_embedding_fusion(rule, cards)


BUILDERS: dict[str, Callable[[str, Sequence[Card], ClassPrior], AnyFusion]] = {
    "classes": build_class_fusion,
    "numbers": _of_numbers,
    "tasks": build_task_fusion,
    "embedding": _of_embeddings,
}
"""By what a card predicts."""


def build_fusion(rule: str, cards: Sequence[Card], prior: ClassPrior = AUTO) -> AnyFusion:
    """The fusion of these institutions by this rule, for what they predict.

    Raises:
        SettingsError: an unknown rule, one that these cards do not allow, or likewise a prior.
    """
    return BUILDERS[cards[0].predicts](rule, cards, prior)


@functools.lru_cache(maxsize=8)
def cached_fusion(rule: str, cards: tuple[Card, ...], prior: ClassPrior = AUTO) -> AnyFusion:
    """`build_fusion`, cached: a run needs it for every question, and its cards seldom change."""
    return build_fusion(rule, cards, prior)
