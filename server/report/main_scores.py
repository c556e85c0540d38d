"""The main score of each task: by what a student is judged, and how it is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fedkd.errors import DataError
from fedkd.server.report.formatting import decimals, percent
from fedkd.server.report.records.event_schema import Scored
from fedkd.server.report.records.result_parts import TaskScores


@dataclass(frozen=True)
class MainScore:
    """A score of `fedkd.server.report.records.result_schema.TaskScores`, and its format."""

    field: str
    """Name of the field, also of an event ``scored``."""
    name: str
    """For people, within a sentence."""
    text: Callable[[float | None], str]
    is_share: bool
    """Whether it is a share of 1, which is drawn in percent."""

    def of(self, scores: TaskScores | Scored) -> float | None:
        """Its value, None where unknown."""
        value: float | None = getattr(scores, self.field)
        return value


ACCURACY = MainScore("accuracy", "accuracy", percent, is_share=True)
R2 = MainScore("r2", "R²", decimals, is_share=False)
ALL_TASKS = MainScore("all_tasks_accuracy", "share of all tasks right", percent, is_share=True)
RECALL = MainScore("recall_at_1", "recall@1", percent, is_share=True)
MAIN_SCORES = {"classes": ACCURACY, "numbers": R2, "tasks": ALL_TASKS, "embedding": RECALL}
"""By kind of task."""


def teacher_score(task: Mapping[str, Any]) -> MainScore:
    """The score by which a teacher is judged: of several tasks, its accuracy in those it labels.

    Raises:
        DataError: see `main_score`.
    """
    score = main_score(task)
    return ACCURACY if score is ALL_TASKS else score


def main_score(task: Mapping[str, Any]) -> MainScore:
    """Of the task in a result.

    Raises:
        DataError: a kind that this release does not know.
    """
    kind = task.get("kind")
    if kind not in MAIN_SCORES:
        raise DataError(
            f"a result of task {kind!r}; this release shows {', '.join(MAIN_SCORES)}: install the "
            "release that made it"
        )
    return MAIN_SCORES[kind]
