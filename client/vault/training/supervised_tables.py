"""Supervised training of a teacher on one institution's rows: an estimator or a network."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from fedkd.client.vault.training.settings import ProgressCallback, SupervisedSettings
from fedkd.client.vault.training.supervised import SKLEARN_PREFIX, fit_network
from fedkd.errors import DataError, SettingsError
from fedkd.models import ModuleTeacher, TableTeacher, build_network, build_table_network
from fedkd.models.table_teacher import probabilities_of
from fedkd.protocol import Column, Number, decode_numbers, decode_rows


def train_table_teacher(
    model_name: str,
    samples: Tensor,
    targets: Tensor,
    outputs: int,
    columns: Sequence[Column],
    numbers: Sequence[Number],
    settings: SupervisedSettings,
    seed: int,
    progress: ProgressCallback | None = None,
) -> ModuleTeacher | TableTeacher:
    """A teacher trained on these rows; the same arguments give the same teacher.

    Args:
        model_name: ``sklearn:`` and a key of `ESTIMATORS`, or a network for tables.
        samples: (N, 1, 1, D) float32 in [0, 1].
        targets: (N,) int64 in 0..K-1, or (N, K) float32 in [0, 1] of numbers.
        outputs: K.
        columns: (D,).
        numbers: (K,) that are predicted; none: classes are.
        settings: how a network is trained; of estimators they mean nothing.
        seed: of the estimator, or of a network's weights and the order of rows.
        progress: called after each epoch of a network.

    Raises:
        SettingsError: no such model.
        DataError: too little to learn from.
    """
    check_rows(model_name, targets, numbers)
    if model_name.startswith(SKLEARN_PREFIX):
        name = model_name.removeprefix(SKLEARN_PREFIX)
        return _fit_estimator(name, samples, targets, outputs, columns, numbers, seed)
    network = build_table_network(model_name, outputs, columns, seed, imports=True)
    loss: Callable[[Tensor, Tensor], Tensor] = (
        nn.functional.mse_loss if numbers else nn.functional.cross_entropy
    )
    fit_network(network, samples, targets, settings, seed, progress, loss)
    return ModuleTeacher(network, outputs)


def build_teacher_network(
    name: str, outputs: int, shape: tuple[int, int, int], columns: Sequence[Column], seed: int
) -> nn.Module:
    """The network of a teacher that reads images, or rows with these columns."""
    if columns:
        return build_table_network(name, outputs, columns, seed, imports=True)
    return build_network(name, outputs, shape, seed, imports=True)


def check_rows(model_name: str, targets: Tensor, numbers: Sequence[Number]) -> None:
    """Check that there is enough to train a model on.

    Args:
        model_name: as `train_table_teacher` takes it.
        targets: (N,) classes or (N, K) numbers.
        numbers: that are predicted; none: classes are.

    Raises:
        DataError: too little to learn from.
    """
    forest = model_name == f"{SKLEARN_PREFIX}RandomForest"
    if not model_name.startswith(SKLEARN_PREFIX):
        if len(targets) < 2:
            raise DataError("a network needs 2 or more training rows here; bring more data")
    elif not numbers and not forest and len(np.unique(targets.numpy())) < 2:
        raise DataError(
            f"{model_name} needs 2 or more classes to learn from and these data have fewer; choose "
            f"{SKLEARN_PREFIX}RandomForest"
        )


def check_estimator_name(name: str, *, numbers: bool) -> None:
    """Check that `ESTIMATORS` has a regressor of that name, or a classifier.

    Raises:
        SettingsError: it has none.
    """
    kind = 1 if numbers else 0
    if name not in ESTIMATORS or ESTIMATORS[name][kind] is None:
        known = [SKLEARN_PREFIX + n for n, each in ESTIMATORS.items() if each[kind] is not None]
        raise SettingsError(
            f"unknown model {SKLEARN_PREFIX + name!r} for {'numbers' if numbers else 'classes'}; "
            f"choose one of {', '.join(known)}"
        )


def _fit_estimator(
    name: str,
    samples: Tensor,
    targets: Tensor,
    outputs: int,
    columns: Sequence[Column],
    numbers: Sequence[Number],
    seed: int,
) -> TableTeacher:
    """An estimator of scikit-learn behind encoders of the columns, on rows in their own units."""
    check_estimator_name(name, numbers=bool(numbers))
    make = ESTIMATORS[name][1 if numbers else 0]
    rows = decode_rows(samples, columns).numpy()
    if numbers:
        truth = decode_numbers(targets, numbers).numpy()
        truth = truth[:, 0] if outputs == 1 else truth
    else:
        truth = targets.numpy()
    model = _pipeline(columns, make(seed)).fit(rows, truth)
    predict = model.predict if numbers else probabilities_of(model, outputs)
    return TableTeacher(predict, columns, outputs, numbers)


def _pipeline(columns: Sequence[Column], estimator: Any) -> Any:
    """One-hot levels and standardised numbers before an estimator."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    levelled = [place for place, column in enumerate(columns) if column.levels]
    numeric = [place for place, column in enumerate(columns) if not column.levels]
    categories = [np.arange(float(len(columns[place].levels))) for place in levelled]
    encoders = [
        ("levels", OneHotEncoder(categories=categories, sparse_output=False), levelled),
        ("numbers", StandardScaler(), numeric),
    ]
    return make_pipeline(ColumnTransformer([each for each in encoders if each[2]]), estimator)


def _estimator(module: str, classifier: str | None, regressor: str | None, **settings: Any) -> Any:
    """Factories of a classifier and a regressor from a seed; None where there is none."""

    def factory(name: str | None) -> Callable[[int], Any] | None:
        if name is None:
            return None

        def make(seed: int) -> Any:
            import importlib

            kind = getattr(importlib.import_module(f"sklearn.{module}"), name)
            seeded = {"random_state": seed} if "random_state" in kind().get_params() else {}
            return kind(**settings, **seeded)

        return make

    return factory(classifier), factory(regressor)


ESTIMATORS: dict[str, tuple[Any, Any]] = {
    "GradientBoosting": _estimator(
        "ensemble", "GradientBoostingClassifier", "GradientBoostingRegressor"
    ),
    "RandomForest": _estimator("ensemble", "RandomForestClassifier", "RandomForestRegressor"),
    "HistGradientBoosting": _estimator(
        "ensemble", "HistGradientBoostingClassifier", "HistGradientBoostingRegressor"
    ),
    "Ridge": _estimator("linear_model", None, "Ridge"),
    "LogisticRegression": _estimator("linear_model", "LogisticRegression", None, max_iter=1000),
    "KNeighbors": _estimator("neighbors", "KNeighborsClassifier", "KNeighborsRegressor"),
}
"""Classifier and regressor of scikit-learn by one name."""
