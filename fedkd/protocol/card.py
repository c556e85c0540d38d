"""The card: what an institution tells the coordinator about its teacher before the first query."""

from dataclasses import dataclass

from fedkd.protocol.guarantee import Guarantee
from fedkd.protocol.signals import Signal


@dataclass(frozen=True)
class Card:
    """All that an institution discloses about itself before the first query."""

    name: str
    classes: int
    """K of its teacher."""
    shape: tuple[int, int, int]
    """(C, H, W) of the images that its teacher reads."""
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
