"""Teacher format ``xgboost:FILE``: a model of XGBoost's in its own JSON or UBJSON.

JSON is checked before XGBoost reads it, see
`fedkd.client.vault.teachers.file_checks.xgboost_model_checks`.
UBJSON only XGBoost itself reads, whose reader was not made for files of strangers: a damaged file
can end the process. So the owner has to state that such a file is his (``trusted``).
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.client.vault.regular_files import read_regular_file
from fedkd.client.vault.teachers.adapters.boosted_trees import ModelColumns, boosted_teacher
from fedkd.client.vault.teachers.adapters.table_layout import Rows, TableLayout
from fedkd.client.vault.teachers.file_checks.memory_limit import memory_limit
from fedkd.client.vault.teachers.file_checks.xgboost_model_checks import (
    CheckedXgboost,
    checked_model,
)
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models import TableTeacher

PROBABILITIES = frozenset({"binary:logistic", "multi:softprob"})
"""Objectives whose predictions are probabilities."""


def open_xgboost(spec: TeacherSpec, name: str, layout: TableLayout) -> TableTeacher:
    """See the module.

    Raises:
        SettingsError: XGBoost is not installed, or the owner has not set ``trusted``.
        DataError: it cannot be read, or does not fit the schema.
    """
    try:
        import xgboost
    except ImportError as error:
        raise SettingsError("XGBoost is not installed; install fedkd[xgboost]") from error
    path = spec.path(name)
    content = read_regular_file(path, memory_limit(spec))
    try:
        checked = checked_model(_as_json(content, spec, path))
        booster = xgboost.Booster()
        booster.load_model(bytearray(checked.text))
    except SettingsError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        # XGBoost's own error is a ValueError, of many lines
        why = next(iter(str(error).splitlines()), "")[:80]
        raise DataError(
            f"{path} cannot be read as a model of XGBoost's ({type(error).__name__}: {why}); save "
            "it with save_model(FILE.json), a gbtree"
        ) from None
    _check_objective(checked.objective, layout, spec)
    own = ModelColumns(checked.names, checked.features, checked.categories)
    return boosted_teacher(_scorer(xgboost, booster, checked), own, layout, spec.source)


def _scorer(xgboost: Any, booster: Any, checked: CheckedXgboost) -> Any:
    """Predictions of a booster."""
    names, types = list(checked.names) or None, list(checked.types) or None

    def score(rows: Rows) -> NDArray[Any]:
        matrix = xgboost.DMatrix(rows, feature_names=names, feature_types=types, nthread=1)
        return np.asarray(booster.predict(matrix, iteration_range=(0, checked.iterations)))

    return score


def _as_json(content: bytes, spec: TeacherSpec, path: Path) -> bytes:
    """The model's JSON; of UBJSON as XGBoost writes it."""
    import xgboost

    if path.suffix != ".ubj":
        return content
    if not spec.trusted:
        raise SettingsError(
            f"{spec.source}: XGBoost's reader trusts .ubj files; save the model as .json, or say "
            "trusted = true if the file is your own"
        )
    booster = xgboost.Booster()
    booster.load_model(bytearray(content))
    return bytes(booster.save_raw("json"))


def _check_objective(objective: str, layout: TableLayout, spec: TeacherSpec) -> None:
    """Check that the model predicts what the schema says."""
    if layout.numbers and objective.startswith("multi:"):
        raise DataError(
            f"{spec.source} predicts classes ({objective}), and the schema numbers; bring a "
            "regressor"
        )
    if not layout.numbers and objective not in PROBABILITIES:
        raise DataError(
            f"{spec.source} has the objective {objective}, and the schema predicts classes; "
            f"expected {' or '.join(sorted(PROBABILITIES))}"
        )
