"""The card: what an institution tells the coordinator about its teacher before the first query."""

from dataclasses import dataclass

from fedkd.protocol.guarantee import Guarantee
from fedkd.protocol.signals import Signal


@dataclass(frozen=True)
class Card:
    """All that an institution tells the world about itself before the first question."""

    name: str
    classes: int
    """K: how many its teacher tells apart."""
    shape: tuple[int, int, int]
    """(C, H, W) of the images that its teacher reads."""
    signals: frozenset[Signal]
    """What its policy releases."""
    pull_back: bool = False
    """Whether it answers `PullBack`."""
    samples: int | None = None
    """Most images that it will be asked about, None for no cap."""
    largest_batch: int = 4096
    class_counts: tuple[int, ...] | None = None
    """Training images of each class, ``(K,)``: a disclosure, made only where the policy says so."""
    scores: bool = False
    """Whether it tells how well a student does on its private test data."""
    class_names: tuple[str, ...] | None = None
    """What it calls its classes, ``(K,)``, no two alike; None for the numbers from 0."""
    guarantee: Guarantee | None = None
    """The differential privacy that it says its answers have; None: it promises none."""
    recipes: int = 0
    """The `RECIPE_VERSION` by which it draws images itself; 0: it wants to be shown them."""
