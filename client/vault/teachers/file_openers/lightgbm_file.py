"""Teacher format ``lightgbm:FILE``: a model of LightGBM's in its own text format.

The text is checked before LightGBM reads it, see
`fedkd.client.vault.teachers.file_checks.lightgbm_model_checks`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.client.vault.regular_files import read_regular_file
from fedkd.client.vault.teachers.adapters.boosted_trees import ModelColumns, boosted_teacher
from fedkd.client.vault.teachers.adapters.table_layout import Rows, TableLayout
from fedkd.client.vault.teachers.file_checks.lightgbm_model_checks import checked_model
from fedkd.client.vault.teachers.file_checks.memory_limit import memory_limit
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models import TableTeacher

PROBABILITIES = frozenset({"binary", "multiclass", "multiclassova", "cross_entropy"})
"""Objectives whose predictions are probabilities."""
UNNAMED = "Column_"
"""How LightGBM begins names that it gives itself."""


def open_lightgbm(spec: TeacherSpec, name: str, layout: TableLayout) -> TableTeacher:
    """See the module.

    Raises:
        SettingsError: LightGBM is not installed.
        DataError: it cannot be read, or does not fit the schema.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise SettingsError("LightGBM is not installed; install fedkd[lightgbm]") from error
    path = spec.path(name)
    content = read_regular_file(path, memory_limit(spec))
    try:
        checked = checked_model(content.decode())
        booster = lightgbm.Booster(model_str=checked.text)
    except (
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
        lightgbm.basic.LightGBMError,
    ) as error:
        why = next(iter(str(error).splitlines()), "")[:80]
        raise DataError(
            f"{path} cannot be read as a model of LightGBM's ({type(error).__name__}: {why}); save "
            "it with booster_.save_model(FILE.txt)"
        ) from None
    if (checked.objective in PROBABILITIES) == bool(layout.numbers):
        raise DataError(
            f"{spec.source} has the objective {checked.objective}, and the schema predicts "
            f"{'numbers' if layout.numbers else 'classes'}; bring a model of these"
        )
    unnamed = all(each.startswith(UNNAMED) for each in checked.names)
    own = ModelColumns(() if unnamed else checked.names, len(checked.names), checked.categories)

    def score(rows: Rows) -> NDArray[Any]:
        return np.asarray(booster.predict(rows, num_threads=1))

    return boosted_teacher(score, own, layout, spec.source)
