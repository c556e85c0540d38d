"""The task of a federation, from the cards of its institutions."""

from collections.abc import Sequence
from dataclasses import replace

from fedkd.core.task import Task
from fedkd.protocol import Card, LabelSpaces
from fedkd.tasks.classification import Classification
from fedkd.tasks.embedding import Embedding
from fedkd.tasks.regression import Regression
from fedkd.tasks.several_tasks import SeveralTasks


def task_of(cards: Sequence[Card]) -> Task:
    """What these institutions predict: the union of their classes, numbers or tasks; an embedding.

    Args:
        cards: that agree, see `fedkd.protocol.common_shape`.
    """
    labels = LabelSpaces.of(cards)
    if any(card.embedding for card in cards):
        return Embedding(len(labels.names), sum(card.classes for card in cards))
    # What an institution tells of its own error is no part of the task.
    numbers = {each.name: replace(each, error=None) for card in cards for each in card.numbers}
    if numbers:
        return Regression(tuple(numbers[name] for name in labels.names))
    return SeveralTasks(labels.tasks) if labels.tasks else Classification(labels.names)
