"""The card: what an institution tells the coordinator about its teacher before the first query."""

import math
from dataclasses import dataclass

from fedkd.protocol.guarantee import Guarantee
from fedkd.protocol.signals import Signal
from fedkd.protocol.tables import Column, Number, columns_violation, numbers_violation
from fedkd.protocol.tasks import NamedTask, tasks_violation

MAX_NAME_LENGTH = 64
"""Characters of the name of an institution or of a class."""
MAX_CLASSES = 10_000
"""Classes of one institution."""
MAX_CHANNELS = 64
MAX_SIDE = 4096
"""Pixels of a side of an image."""
MAX_VALUES = 1 << 24
"""Values of an image, C x H x W."""
MAX_CLASS_COUNT = (1 << 31) - 1
"""Training images of one class."""
MAX_BATCH = 1 << 31
"""Samples in one query."""
MAX_VERSION_LENGTH = 64
"""Characters of the version of fedkd."""
MAX_SAMPLES = (1 << 63) - 1
"""Of other numbers: what files and tensors hold."""
MIN_EPSILON, MAX_EPSILON = 1e-30, 1e30
"""Of a guarantee: far beyond what any mechanism gives, and safe to add up and to write."""


@dataclass(frozen=True)
class Card:
    """All that an institution discloses about itself before the first query."""

    name: str
    classes: int
    """K, outputs of its teacher: classes, those of all its tasks, numbers where it names some, or
    the width of an embedding."""
    shape: tuple[int, int, int]
    """(C, H, W) of the images that its teacher reads; (1, 1, D) of rows of D columns."""
    signals: frozenset[Signal]
    """What its policy releases."""
    pull_back: bool = False
    """Whether it answers `PullBack`."""
    samples: int | None = None
    """Most samples that it answers in all; None for no cap."""
    largest_batch: int = 4096
    """Most samples in one query."""
    class_counts: tuple[int, ...] | None = None
    """Training images of each class, ``(K,)``: a disclosure, made only where the policy says so."""
    scores: bool = False
    """Whether it evaluates a student on its private test data and releases the scores."""
    class_names: tuple[str, ...] | None = None
    """Names of its classes, ``(K,)``, each different; None for the numbers from 0."""
    guarantee: Guarantee | None = None
    """The differential privacy that it claims for its answers; None: it promises none."""
    recipes: int = 0
    """The `RECIPE_VERSION` by which it renders samples; 0: it has to be sent the samples."""
    columns: tuple[Column, ...] = ()
    """(D,) of the rows that its teacher reads: a disclosure; empty: it reads images."""
    numbers: tuple[Number, ...] = ()
    """(K,) that its teacher predicts, in place of classes; empty: it predicts classes."""
    fedkd_version: str = ""
    """That it runs, as ``0.2.0``; empty: not told, as by an older or another program."""
    tasks: tuple[NamedTask, ...] = ()
    """Of which it has several, or one of the federation's several, in place of ``class_names``;
    empty: its classes are all there is."""
    embedding: bool = False
    """Whether its teacher outputs an embedding K wide, and neither classes nor numbers."""
    batch_statistics: bool = False
    """Whether its teacher has batch norm and answers by the statistics of a batch where asked."""

    @property
    def predicts(self) -> str:
        """Kind of what its teacher predicts: ``classes``, ``tasks``, ``numbers``, ``embedding``."""
        if self.embedding:
            return "embedding"
        return "numbers" if self.numbers else "tasks" if self.tasks else "classes"


def card_violation(card: Card) -> str | None:
    """The first thing on ``card`` that is out of bounds, in one line; None where nothing is.

    A card is an institution's word, and the coordinator allocates by it. The line repeats no text
    of the card.
    """
    if not _is_name(card.name):
        return f"a name must be 1 to {MAX_NAME_LENGTH} printable characters, got {len(card.name)}"
    version = card.fedkd_version
    if len(version) > MAX_VERSION_LENGTH or not version.isprintable():
        return f"a version must be {MAX_VERSION_LENGTH} printable characters at most"
    if not 1 <= card.classes <= MAX_CLASSES:
        return f"a card with {card.classes} classes, expected 1 to {MAX_CLASSES}"
    if why := _shape_violation(card.shape):
        return why
    if not 1 <= card.largest_batch <= MAX_BATCH:
        return f"a card with batches of {card.largest_batch} images, expected 1 to {MAX_BATCH}"
    if card.samples is not None and not 0 <= card.samples <= MAX_SAMPLES:
        return f"a card with a cap of {card.samples} samples, expected 0 to {MAX_SAMPLES}"
    if card.guarantee and max(card.guarantee.steps, card.guarantee.unpromised) > MAX_SAMPLES:
        return f"a guarantee with more than {MAX_SAMPLES} steps, or answers before it"
    if card.guarantee and not MIN_EPSILON <= card.guarantee.epsilon <= MAX_EPSILON:
        return (
            f"a guarantee of epsilon {card.guarantee.epsilon:g}, expected {MIN_EPSILON:g} to "
            f"{MAX_EPSILON:g}"
        )
    return _classes_violation(card) or _tasks_violation(card) or _table_violation(card)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME_LENGTH and name.isprintable()


def _shape_violation(shape: tuple[int, int, int]) -> str | None:
    channels, height, width = shape
    fits = 1 <= channels <= MAX_CHANNELS and min(height, width) >= 1
    if fits and max(height, width) <= MAX_SIDE and math.prod(shape) <= MAX_VALUES:
        return None
    return (
        f"a card with images of {channels} x {height} x {width}, expected 1 to {MAX_CHANNELS} "
        f"channels, 1 to {MAX_SIDE} pixels a side and at most {MAX_VALUES} values"
    )


def _classes_violation(card: Card) -> str | None:
    counts, names = card.class_counts, card.class_names
    if counts is not None:
        if len(counts) != card.classes:
            return f"a card with {len(counts)} class counts for {card.classes} classes"
        if not (min(counts) >= 0 and max(counts) <= MAX_CLASS_COUNT):
            return (
                f"a card with class counts from {min(counts)} to {max(counts)}, expected 0 to "
                f"{MAX_CLASS_COUNT}"
            )
    if names is not None:
        if len(names) != card.classes or len(set(names)) != card.classes:
            return "a card must name each of its classes once, no two alike"
        if not all(_is_name(name) for name in names):
            return f"names of classes must be 1 to {MAX_NAME_LENGTH} printable characters"
    return None


def _tasks_violation(card: Card) -> str | None:
    if not card.tasks:
        return None
    if card.class_names or card.numbers:
        return "a card with tasks, and names of classes or numbers beside them"
    outputs = sum(len(task.class_names) for task in card.tasks)
    if outputs != card.classes:
        return f"a card with tasks of {outputs} classes in all for {card.classes} outputs"
    return tasks_violation(card.tasks)


def _table_violation(card: Card) -> str | None:
    if card.columns and card.shape != (1, 1, len(card.columns)):
        return f"a card with {len(card.columns)} columns and rows of shape {card.shape}"
    if card.numbers and (card.class_names or card.class_counts):
        return "a card with numbers to predict and classes beside them"
    if card.numbers and len(card.numbers) != card.classes:
        return f"a card with {len(card.numbers)} numbers for {card.classes} outputs"
    beside = card.numbers or card.tasks or card.class_names or card.class_counts
    if card.embedding and beside:
        return "a card with an embedding, and classes, tasks or numbers beside it"
    return columns_violation(card.columns) or numbers_violation(card.numbers)
