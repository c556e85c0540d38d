"""Warnings about the ensemble, from scores on whatever test data is known."""

import statistics
from collections.abc import Mapping

from fedkd.core.task import Score, Task
from fedkd.server.report.main_scores import MAIN_SCORES

Scores = Mapping[str, Score]
ROUNDING = 1e-6
"""Of a mean of scores."""


def ensemble_warnings(task: Task, ensemble: Scores, teachers: Mapping[str, Scores]) -> list[str]:
    """A warning for the main score in which the ensemble is worse than its mean member, or none.

    A student can hardly be better than the answers that it learns from. Without test data nothing
    is known: institutions' own scores are on data that the others never saw.

    Args:
        task: of the federation.
        ensemble: its scores by name.
        teachers: theirs, by institution.
    """
    score = MAIN_SCORES[task.kind]
    own = [each.get(score.field) for each in teachers.values()]
    known = [value for value in own if isinstance(value, float)]
    fused = ensemble.get(score.field)
    if not isinstance(fused, float) or len(known) < 2 or len(known) < len(own):
        return []
    mean = statistics.fmean(known)
    if fused >= mean - ROUNDING:
        return []
    return [
        f"The ensemble's {score.name}, {score.text(fused)}, is below that of its mean member, "
        f"{score.text(mean)}: fusing these answers does harm. See questions.rule and "
        "questions.prior."
    ]
