"""Growth of a student, as ``result.json`` tells it: from which run, by what, without whom."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fedkd.experiment import Experiment
from fedkd.protocol import Card, new_classes
from fedkd.server.run.earlier_run import EarlierRun


class Counted(Protocol):
    """What was asked of one institution."""

    @property
    def samples_asked(self) -> int:
        """In this run."""

    @property
    def questions(self) -> int:
        """Sent to it."""


def growth_record(
    run: EarlierRun,
    experiment: Experiment,
    cards: Sequence[Card],
    traffic: Mapping[str, Counted],
    scores: Mapping[str, Any],
) -> dict[str, Any]:
    """The field ``growth`` of the result, see `GrowthRecord`.

    Args:
        run: whose student went on.
        experiment: of the grown run.
        cards: of its institutions.
        traffic: counters of whoever was asked, by institution.
        scores: on test data, where there are any.
    """
    present = {card.name for card in cards}
    counts = {name: traffic.get(name) for name in run.institutions if name not in present}
    return {
        "run": run.path.name,
        "student": run.digest,
        "method": run.result.method,
        "classes": run.classes,
        "new_classes": new_classes(run.student().card, cards),
        "weights_copied": run.model == experiment.student.model,
        "left": [
            {
                "name": name,
                "samples_asked": 0 if of is None else of.samples_asked,
                "questions": 0 if of is None else of.questions,
            }
            for name, of in counts.items()
        ],
        **scores,
    }
