"""Teacher format ``catboost:FILE``: a model in CatBoost's own binary format, .cbm.

It is data and runs no code of its own. But CatBoost's reader was not made for files of strangers:
a damaged file can end the process. So the owner has to state that the file is his (``trusted``).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.client.vault.regular_files import read_regular_file
from fedkd.client.vault.teachers.adapters.sklearn_estimator import class_places
from fedkd.client.vault.teachers.adapters.table_layout import Rows, TableLayout
from fedkd.client.vault.teachers.file_checks.memory_limit import memory_limit
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models import TableTeacher

MAGIC = b"CBM1"


def open_catboost(spec: TeacherSpec, name: str, layout: TableLayout) -> TableTeacher:
    """See the module.

    Raises:
        SettingsError: CatBoost is not installed, or the owner has not set ``trusted``.
        DataError: it cannot be read, or does not fit the schema.
    """
    try:
        import catboost
    except ImportError as error:
        raise SettingsError("CatBoost is not installed; install fedkd[catboost]") from error
    if not spec.trusted:
        raise SettingsError(
            f"{spec.source}: CatBoost's reader trusts its files; say trusted = true if the file is "
            "your own"
        )
    path = spec.path(name)
    content = read_regular_file(path, memory_limit(spec))
    if not content.startswith(MAGIC):
        raise DataError(f"{path} is no .cbm; save the model with save_model(FILE)")
    model = catboost.CatBoostRegressor() if layout.numbers else catboost.CatBoost()
    try:
        model.load_model(blob=content)
        names = [str(each) for each in model.feature_names_]
        texts = set(model.get_cat_feature_indices())
    except Exception as error:  # CatBoost raises errors of several kinds
        raise DataError(
            f"{path} cannot be read by CatBoost ({type(error).__name__}); save it again"
        ) from error
    if names == [str(place) for place in range(len(names))]:
        places = layout.all_places(len(names), spec.source)
    else:
        places = layout.places(names, spec.source)
    return _teacher(model, places, texts, layout, spec)


def _teacher(
    model: Any, places: list[int], texts: set[int], layout: TableLayout, spec: TeacherSpec
) -> TableTeacher:
    own = [layout.columns[place].name for place in places]
    as_texts = frozenset(own[at] for at in texts)

    def table(rows: Rows) -> Any:
        if not texts:
            return layout.numeric(rows)[:, places]
        natural, numeric = layout.natural(rows, as_texts), layout.numeric(rows)
        columns = [
            natural[name].astype(str).astype(object)
            if name in as_texts
            else numeric[:, place].astype(object)
            for name, place in zip(own, places, strict=True)
        ]
        return np.stack(columns, 1)

    known = np.asarray(model.classes_)
    if layout.numbers:
        if len(known):
            raise DataError(
                f"{spec.source} predicts {len(known)} classes, and the schema numbers; bring a "
                "regressor"
            )
        return TableTeacher(
            lambda rows: np.asarray(model.predict(table(rows), thread_count=1)),
            layout.columns,
            layout.outputs,
            layout.numbers,
        )
    if not len(known):
        raise DataError(
            f"{spec.source} is no classifier, and the schema predicts classes; bring one"
        )
    seats = class_places(known, layout.class_names, layout.outputs, spec.source)

    def predict(rows: Rows) -> NDArray[Any]:
        probabilities = np.zeros((len(rows), layout.outputs))
        probabilities[:, seats] = model.predict(
            table(rows), prediction_type="Probability", thread_count=1
        )
        return probabilities

    return TableTeacher(predict, layout.columns, layout.outputs)
