"""Time to score: how soon in a run the student was about as good as at its end."""

from collections.abc import Sequence
from dataclasses import dataclass

SHARE = 0.95
"""Of the final score."""


@dataclass(frozen=True)
class ScoreDuringRun:
    """One evaluation of the student on test data."""

    score: float
    asked: int
    """Samples asked of each institution until then."""
    seconds: float | None
    """Of the run until then; None: not recorded."""


def time_to_score(
    scores: Sequence[ScoreDuringRun], final: float | None, share: float = SHARE
) -> ScoreDuringRun | None:
    """The first evaluation with at least ``share`` of the final score.

    Args:
        scores: in order of time.
        final: score of the student at the end; None: unknown.
        share: in (0, 1].

    Returns:
        None where no evaluation reached it, or where ``final`` is no positive number, so that a
        share of it would say nothing.
    """
    if final is None or not final > 0:
        return None
    return next((each for each in scores if each.score >= share * final), None)
