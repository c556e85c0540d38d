"""Figures of embeddings: recall in the headline, controls and groups in the tables."""

from collections.abc import Mapping

from fedkd.server.report.formatting import decimals, percent
from fedkd.server.report.headline import HeadlineFigure, main_headline
from fedkd.server.report.records.result_schema import Result, StudentScore
from fedkd.server.report.score_table import ScoreTable, score_table
from fedkd.server.report.student_metrics import Metric

_COLUMNS = (("recall_at_1", "Recall@1", percent), ("recall_at_5", "Recall@5", percent))


def embedding_headline(result: Result, detailed: bool) -> list[HeadlineFigure]:
    """Recall at 1 of student, ensemble and best teacher."""
    del detailed
    close = result.student.relation_correlation
    note = "" if close is None else f"; its relations correlate {close:.2f} with the mean"
    return main_headline(result, "Student's recall@1", f"after the last step{note}")


def embedding_metrics(student: StudentScore) -> list[Metric]:
    """How near the student's relations are to the mean of the institutions'."""
    rows = []
    if student.relation_correlation is not None:
        note = "correlation of the student's relations with the mean relation, on test samples"
        rows.append(Metric("Relations as the mean", decimals(student.relation_correlation), note))
    held_back = student.held_back
    if held_back is not None and held_back.relation_correlation is not None:
        note = (
            "correlation with the mean relation on held-back samples; root mean squared difference "
        )
        note += decimals(held_back.relation_error)
        value = decimals(held_back.relation_correlation)
        rows.append(Metric("Relations, held back", value, note))
    return rows


def embedding_scores(result: Result) -> ScoreTable | None:
    """Recall of all, of the controls too, and how each one's groups fit; None if unknown."""
    table = score_table(result, _COLUMNS, "recall_at_5")
    if table is None:
        return None
    relations = result.relations or {}
    rows = [
        *table.rows,
        *(
            (f"control: {name}", [text(scores.get(field)) for field, _, text in _COLUMNS])
            for name, scores in relations.get("controls", {}).items()
        ),
    ]
    groups = relations.get("groups", {})
    names = {"ensemble": "mean relation", "control: pixels": "pixels"}
    return ScoreTable(
        [*table.headings, "Groups right", "Groups as the mean's"],
        [
            (who, [*values, *_group_texts(groups.get(names.get(who, who), {}))])
            for who, values in rows
        ],
    )


def _group_texts(groups: Mapping[str, float | None]) -> tuple[str, str]:
    """Clustering accuracy, and the adjusted Rand index to the groups of the mean relation."""
    accuracy, same = groups.get("accuracy"), groups.get("same_groups")
    return (
        "" if accuracy is None else percent(accuracy),
        "" if same is None else decimals(same),
    )
