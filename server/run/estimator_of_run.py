"""The deployable estimator of a run: trained on its bank, written, compared and scored."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from fedkd.core.task import Score
from fedkd.errors import DataError
from fedkd.loop import Distilled
from fedkd.models.deployable_estimator import EstimatorNetwork, fit_estimator
from fedkd.protocol import Card, LabelSpaces
from fedkd.server.report.records.estimator_export import MAX_DIFFERENCE, export_estimator
from fedkd.tasks import Regression, task_of

ScoreModel = Callable[[nn.Module], Mapping[str, Score]]
"""Scores a model on test data, of which only an engine of a simulation has all."""


def estimator_of_run(
    kind: str,
    distilled: Distilled,
    cards: Sequence[Card],
    folder: Path,
    seed: int,
    score: ScoreModel | None,
) -> dict[str, Any] | None:
    """Train, write and score it; the field ``estimator`` of the result, None where kind is none.

    Args:
        kind: ``student.estimator``.
        distilled: what the run left.
        cards: of the institutions.
        folder: of the run.
        seed: of the estimator.
        score: None where there are no test data.
    """
    if kind == "none":
        return None
    task = task_of(cards)
    numbers = task.numbers if isinstance(task, Regression) else ()
    bank, learned = distilled.bank, distilled.bank.learned  # nothing that is held back
    samples, targets = bank.images.cpu()[learned], bank.targets.cpu()[learned]
    estimator = fit_estimator(
        *(kind, samples, targets, cards[0].columns),
        *(LabelSpaces.of(cards).names, numbers, seed),
    )
    parity = export_estimator(estimator, folder, samples)
    scores = {} if score is None else score(EstimatorNetwork(estimator))
    return {"kind": kind, **scores, **parity}


def check_parity(estimator: Mapping[str, Any] | None) -> None:
    """Raise where a written file predicts otherwise than the estimator; after all is written.

    Raises:
        DataError: which format, and by how much.
    """
    for name in ("skops", "onnx"):
        found = (estimator or {}).get(name, {})
        if found.get("failed"):
            raise DataError(
                f"the estimator as {name} predicts otherwise, by {found['max_difference']:.2g} of "
                f"1 where {MAX_DIFFERENCE:g} is the most; the file was removed, and all else of "
                "the run is written. Use the other format, or report this"
            )
