"""What the page shows of each domain and of each task: one table for either.

No other module of the report asks whether samples are images, or whether numbers are predicted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from numpy.typing import NDArray

from fedkd.errors import DataError
from fedkd.protocol import recorded_columns
from fedkd.server.report.embeddings.embedding_figures import (
    embedding_headline,
    embedding_metrics,
    embedding_scores,
)
from fedkd.server.report.embeddings.kept_relations import keep_relations
from fedkd.server.report.embeddings.relation_pictures import relations_picture
from fedkd.server.report.gallery import gallery_section, keep_gallery
from fedkd.server.report.headline import HeadlineFigure, class_headline, number_headline
from fedkd.server.report.output_format import (
    Axis,
    class_answer,
    class_axis,
    class_name,
    number_axis,
    numbers_answer,
)
from fedkd.server.report.records.result_schema import Result, StudentScore
from fedkd.server.report.records.run_folder import RunFolder
from fedkd.server.report.records.run_record import RunRecord
from fedkd.server.report.records.sample_history import SampleHistory
from fedkd.server.report.score_table import ScoreTable, class_scores, number_scores
from fedkd.server.report.student_metrics import Metric, class_metrics, number_metrics
from fedkd.server.report.tables.prediction_plots import (
    PredictionPicture,
    calibration_picture,
    numbers_picture,
)
from fedkd.server.report.tables.predictions import TestOutputs, keep_calibration, keep_numbers
from fedkd.server.report.tables.table_rows import keep_rows
from fedkd.server.report.tables.table_section import table_section
from fedkd.server.report.tasks.task_scores import (
    task_headline,
    task_metrics,
    task_picture,
    task_scores,
    tasks_answer,
)


@dataclass(frozen=True)
class TaskPage:
    """What is shown of classes, numbers, several tasks or embeddings."""

    keep: Callable[[RunFolder, SampleHistory | None, TestOutputs | None], None]
    """Writes what `picture` needs."""
    headline: Callable[[Result, bool], list[HeadlineFigure]]
    metrics: Callable[[StudentScore], list[Metric]]
    metrics_title: str
    scores: Callable[[Result], ScoreTable | None]
    picture: Callable[[RunRecord], PredictionPicture | None]
    picture_stands_open: bool
    """Whether it and the scores beside the main one are shown unasked."""
    sample_label: Callable[[int, Sequence[str]], str]
    """Of an index of `fedkd.core.task.Task.headline` and the names of outputs; empty: nothing."""
    sample_note: str
    """What stands under a picture of a sample."""
    answer: Callable[[Result, NDArray[Any]], str]
    """An answer of the ensemble (K,) in words."""
    axis: Callable[[Result, int], Axis]
    outputs: str
    """What an institution's outputs are, as a heading."""
    counts_classes: bool
    """Whether there may be a number of training samples for each output."""
    entropy: str
    entropy_note: str


@dataclass(frozen=True)
class DomainPage:
    """What is shown of images, or of rows of a table."""

    sample: str
    samples: str
    values: str
    """Of which a sample is made."""
    answered: str
    """What teachers are asked of a sample."""
    detailed: bool
    """Whether scores beside the main one stand open whatever the task, and in the headline."""
    keep: Callable[[RunFolder, SampleHistory, Mapping[str, Any]], None]
    """Writes what `section` needs; the mapping is the domain in the result."""
    section: Callable[[RunRecord, dict[str, str], TaskPage], Markup | None]
    """A few samples; the dictionary has a colour for each origin."""


TASKS = {
    "classes": TaskPage(
        keep=keep_calibration,
        headline=class_headline,
        metrics=class_metrics,
        metrics_title="How steadily, and how faithfully",
        scores=class_scores,
        picture=calibration_picture,
        picture_stands_open=False,
        sample_label=class_name,
        sample_note="the class of the teachers' fused answer, its probability, and the origin of "
        "the image",
        answer=class_answer,
        axis=class_axis,
        outputs="Classes",
        counts_classes=True,
        entropy="Class entropy",
        entropy_note="Class entropy is that of the classes which the teachers named: near zero, "
        "nearly every {sample} was given the same class and taught little.",
    ),
    "numbers": TaskPage(
        keep=keep_numbers,
        headline=number_headline,
        metrics=number_metrics,
        metrics_title="How faithfully",
        scores=number_scores,
        picture=numbers_picture,
        picture_stands_open=True,
        sample_label=class_name,
        sample_note="the number of the teachers' fused answer, as a share of its range, and the "
        "origin of the image",
        answer=numbers_answer,
        axis=number_axis,
        outputs="Numbers",
        counts_classes=False,
        entropy="Entropy",
        entropy_note="Entropy is that of the answers over tenths of a number's range: near zero, "
        "nearly every {sample} was given the same number and taught little.",
    ),
    "tasks": TaskPage(
        keep=lambda folder, history, test: None,
        headline=task_headline,
        metrics=task_metrics,
        metrics_title="How steadily, and how faithfully",
        scores=task_scores,
        picture=task_picture,
        picture_stands_open=True,
        sample_label=class_name,
        sample_note="the class of the teachers' surest answer, its probability, and the origin of "
        "the image",
        answer=tasks_answer,
        axis=class_axis,
        outputs="Tasks and classes",
        counts_classes=True,
        entropy="Class entropy",
        entropy_note="Class entropy is that of the classes which the teachers named, over all "
        "tasks: near zero, nearly every {sample} was given the same classes and taught little.",
    ),
    "embedding": TaskPage(
        keep=keep_relations,
        headline=embedding_headline,
        metrics=embedding_metrics,
        metrics_title="How faithfully",
        scores=embedding_scores,
        picture=relations_picture,
        picture_stands_open=True,
        sample_label=lambda index, names: "",
        sample_note="the origin of the image",
        answer=lambda result, answer: "",
        axis=lambda result, output: Axis(f"dimension {output}", -1.0, 2.0),
        outputs="Dimensions",
        counts_classes=False,
        entropy="Entropy of relations",
        entropy_note="Entropy is that of the relations between the samples of a question: near "
        "zero, every two were found equally alike and taught little.",
    ),
}
"""By kind of task."""

DOMAINS = {
    "images": DomainPage(
        sample="image",
        samples="images",
        values="pixels",
        answered="see in it",
        detailed=False,
        keep=lambda folder, history, _: keep_gallery(folder, history),
        section=lambda record, colours, task: gallery_section(
            record, colours, task.sample_label, task.sample_note
        ),
    ),
    "table": DomainPage(
        sample="row",
        samples="rows",
        values="values",
        answered="predict for it",
        detailed=True,
        keep=lambda folder, history, domain: keep_rows(folder, history, recorded_columns(domain)),
        section=lambda record, colours, task: table_section(
            record, colours, task.answer, task.axis
        ),
    ),
}
"""By kind of domain."""


def task_page(task: Mapping[str, Any]) -> TaskPage:
    """Of the task in a result; `DataError` for a kind that this release does not know."""
    return TASKS[_known(task, "task", list(TASKS))]


def domain_page(domain: Mapping[str, Any]) -> DomainPage:
    """Of the domain in a result; `DataError` for a kind that this release does not know."""
    return DOMAINS[_known(domain, "domain", list(DOMAINS))]


def _known(record: Mapping[str, Any], what: str, kinds: Sequence[str]) -> str:
    kind = str(record.get("kind"))
    if kind not in kinds:
        raise DataError(
            f"a result of {what} {kind!r}; this release shows {', '.join(kinds)}: install the "
            "release that made it"
        )
    return kind
