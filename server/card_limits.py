"""Bounds of a card's fields and the memory that they imply, checked before it is allocated."""

from collections.abc import Sequence

from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.process.memory_estimate import bank_bytes, check_memory, fusion_bytes, outputs_bytes
from fedkd.protocol import Card, card_violation
from fedkd.tasks import task_of


def check_cards(experiment: Experiment, cards: Sequence[Card]) -> None:
    """Check the cards of those who take part in an experiment.

    Raises:
        SettingsError: a card out of bounds, more memory than this machine has, or an augmentation
            of images where teachers read rows.
    """
    for card in cards:
        if why := card_violation(card):
            raise SettingsError(f"{card.name} has {why}; it cannot take part")
    if cards and cards[0].columns and (experiment.student.shift or experiment.student.mirrors):
        raise SettingsError(
            "rows of a table cannot be shifted or mirrored, which would exchange their columns; "
            "leave student.shift and student.mirrors out"
        )
    if cards:
        check_memory(_memory_needs(experiment, cards, task_of(cards).target_width))


def _memory_needs(experiment: Experiment, cards: Sequence[Card], classes: int) -> dict[str, int]:
    """Bytes that follow from what institutions say of themselves, by what they are for."""
    asked, shape = experiment.questions, cards[0].shape
    rows = min(asked.capacity or asked.budget, asked.budget)
    batch, pool = experiment.student.batch, asked.rule in ("auto", "log_linear_pool")
    return {
        f"the bank of {rows:,} images of {shape} with {classes:,} outputs each": bank_bytes(
            rows, shape, classes
        ),
        f"a batch of {batch} images through the student": outputs_bytes(batch, shape, classes),
        f"fusing answers of {len(cards)} institutions over {classes:,} classes": fusion_bytes(
            len(cards), asked.batch, classes, pool=pool
        ),
    }
