"""Fitted scikit-learn estimators that read rows: classifiers, regressors, pipelines with encoders.

An estimator that was fitted on columns by their names is given a DataFrame, its levels as texts
where its encoders know texts. One that was fitted on an array is given an array.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedkd.client.vault.teachers.adapters.sklearn_estimator import class_places, is_classifier
from fedkd.client.vault.teachers.adapters.table_layout import Rows, TableLayout
from fedkd.errors import DataError, SettingsError
from fedkd.models import TableTeacher

MAX_DEPTH = 20
"""Estimators inside one another."""
PARTS = ("steps", "transformers_", "transformer_list", "estimators_")
"""Attributes that hold estimators, with a name beside each or without."""

Convert: TypeAlias = Callable[[Rows], Any]


def table_estimator_teacher(estimator: Any, layout: TableLayout, source: str) -> TableTeacher:
    """A fitted estimator as a teacher.

    Args:
        estimator: with ``predict_proba`` and ``classes_`` where classes are predicted; else with
            ``predict``.
        layout: of the schema.
        source: for errors.

    Raises:
        DataError: it is no such estimator, or reads other columns.
        SettingsError: it was fitted on a DataFrame, and pandas is not installed.
    """
    convert = _converter(estimator, layout, source)
    if layout.numbers:
        if is_classifier(estimator) or not callable(getattr(estimator, "predict", None)):
            raise DataError(
                f"{source} is no fitted regressor, and the schema predicts numbers; bring one, or "
                "write classes under [predict]"
            )
        return TableTeacher(
            lambda rows: np.asarray(estimator.predict(convert(rows))),
            layout.columns,
            layout.outputs,
            layout.numbers,
        )
    if not is_classifier(estimator):
        raise DataError(
            f"{source} is no fitted classifier with predict_proba, and the schema predicts "
            "classes; bring one, or write numbers under [[predict]]"
        )
    places = class_places(estimator.classes_, layout.class_names, layout.outputs, source)

    def predict(rows: Rows) -> NDArray[Any]:
        probabilities = np.zeros((len(rows), layout.outputs))
        probabilities[:, places] = estimator.predict_proba(convert(rows))
        return probabilities

    return TableTeacher(predict, layout.columns, layout.outputs)


def _converter(estimator: Any, layout: TableLayout, source: str) -> Convert:
    """From rows to what the estimator was fitted on."""
    names = getattr(estimator, "feature_names_in_", None)
    if names is None:
        count = getattr(estimator, "n_features_in_", len(layout.columns))
        layout.all_places(int(count), source)
        if not _reads_texts(estimator):
            return layout.numeric
        return lambda rows: np.stack(
            [column.astype(object) for column in layout.natural(rows).values()], 1
        )
    try:
        import pandas
    except ImportError as error:
        raise SettingsError(
            f"{source} was fitted on columns by their names, which takes pandas; install "
            "fedkd[pandas]"
        ) from error
    columns = [str(name) for name in names]
    layout.places(columns, source)
    texts = _text_columns(estimator)

    def frame(rows: Rows) -> Any:
        values = layout.natural(rows, texts)
        return pandas.DataFrame({name: values[name] for name in columns})

    return frame


def _reads_texts(estimator: Any) -> bool:
    """Whether an encoder inside knows texts."""
    return any(_texts(categories) for part in _inside(estimator) for categories in _known(part))


def _text_columns(estimator: Any) -> frozenset[str]:
    """Columns whose levels an encoder inside knows as texts."""
    found: set[str] = set()
    for part in _inside(estimator):
        names = getattr(part, "feature_names_in_", ())
        found.update(
            str(name)
            for name, categories in zip(names, _known(part), strict=False)
            if _texts(categories)
        )
    return frozenset(found)


def _inside(estimator: Any, depth: int = 0) -> Iterator[Any]:
    """An estimator, and all that are in it."""
    if depth > MAX_DEPTH or isinstance(estimator, str):
        return
    yield estimator
    for attribute in PARTS:
        parts = getattr(estimator, attribute, ())
        for part in parts if isinstance(parts, (list, tuple)) else ():
            yield from _inside(part[1] if isinstance(part, tuple) else part, depth + 1)
    for attribute in ("estimator", "regressor_"):
        if (part := getattr(estimator, attribute, None)) is not None:
            yield from _inside(part, depth + 1)


def _known(part: Any) -> list[Any]:
    """Categories of an encoder, one array for each column."""
    categories = getattr(part, "categories_", ())
    return list(categories) if isinstance(categories, (list, tuple)) else []


def _texts(categories: Any) -> bool:
    return any(isinstance(category, str) for category in np.asarray(categories).tolist())
