"""Estimators of scikit-learn trained on the bank once a run is over: boosted trees or linear.

For whoever deploys such models rather than networks. An estimator is a pipeline that reads rows in
the columns' own units, levels by their index, and predicts numbers in their units, or classes.

Fused targets of classes are probabilities. Each row is given once for each class, weighted by the
class's probability: the estimator's log loss is then the cross-entropy with the fused target, and
what comes out is a classifier like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.protocol import Column, Number, decode_numbers, decode_rows, encode_numbers

KINDS = ("boosted_trees", "linear")
ROUNDS = 200
"""Of boosting."""
LEAST_PROBABILITY = 1e-7
"""Below it a class counts as so likely, since a logit is finite."""


@dataclass(frozen=True, eq=False)
class DeployableEstimator:
    """A fitted pipeline, and what it reads and predicts."""

    kind: str
    pipeline: Any
    columns: tuple[Column, ...]
    numbers: tuple[Number, ...]
    """(K,); none: it predicts classes."""
    names: tuple[str, ...]
    """Of classes or numbers, (K,)."""

    def rows(self, samples: Tensor) -> NDArray[np.float32]:
        """Samples (N, 1, 1, D), uint8 or float in [0, 1], as the pipeline reads them: (N, D)."""
        return decode_rows(samples, self.columns).numpy().astype(np.float32)

    def predict(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, D) -> (N, K): numbers in their units, or probabilities of `names`."""
        if self.numbers:
            return self.in_order(self.pipeline.predict(rows))
        return self.in_order(self.pipeline.predict_proba(rows))

    def in_order(self, said: Any) -> NDArray[np.float64]:
        """What the pipeline predicts, (N,) or (N, K), as (N, K) in the order of `names`.

        The pipeline has its classes in alphabetical order.
        """
        flat = np.asarray(said, np.float64).reshape(len(said), -1)
        if self.numbers:
            return flat
        place = [list(self.pipeline.classes_).index(name) for name in self.names]
        ordered: NDArray[np.float64] = flat[:, place]
        return ordered


class EstimatorNetwork(nn.Module):
    """An estimator as a student: (B, 1, 1, D) in [0, 1] -> (B, K) logits, or shares of ranges."""

    def __init__(self, estimator: DeployableEstimator) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        said = torch.from_numpy(self.estimator.predict(self.estimator.rows(x)))
        if self.estimator.numbers:
            return encode_numbers(said, self.estimator.numbers)
        return said.clamp_min(LEAST_PROBABILITY).log().float()


def check_estimator_kind(kind: str, *, table: bool) -> None:
    """Check that such an estimator can be trained and written here.

    Raises:
        SettingsError: samples are no rows of a table, or scikit-learn or skops is not installed.
    """
    if not table:
        raise SettingsError(
            f'student.estimator = "{kind}" reads rows of a table, and these teachers read images; '
            "leave it out"
        )
    try:
        import skops.io  # noqa: F401  (also needs scikit-learn)
    except ImportError as error:
        raise SettingsError(
            f'student.estimator = "{kind}" needs scikit-learn and skops; install fedkd[estimators]'
        ) from error


def fit_estimator(
    kind: str,
    samples: Tensor,
    targets: Tensor,
    columns: Sequence[Column],
    names: Sequence[str],
    numbers: Sequence[Number] = (),
    seed: int = 0,
) -> DeployableEstimator:
    """An estimator of what the institutions answered; the same arguments give the same one.

    Args:
        kind: one of `KINDS`.
        samples: (N, 1, 1, D) uint8.
        targets: (N, K) fused logits of classes, or fused numbers as shares of their ranges.
        columns: (D,).
        names: of classes or numbers, (K,).
        numbers: (K,) that are predicted; none: classes are.
        seed: of the estimator.
    """
    untrained = DeployableEstimator(kind, None, tuple(columns), tuple(numbers), tuple(names))
    rows = untrained.rows(samples)
    if numbers:
        truth = decode_numbers(targets, numbers).numpy()
        pipeline = _pipeline(kind, columns, _regressor(kind, len(numbers), seed))
        pipeline.fit(rows, truth[:, 0] if len(numbers) == 1 else truth)
    else:
        weight = targets.softmax(1).T.flatten().double().numpy()
        label = np.repeat(np.asarray(names, dtype=str), len(rows))
        pipeline = _pipeline(kind, columns, _classifier(kind, seed))
        pipeline.fit(np.tile(rows, (len(names), 1)), label, model__sample_weight=weight)
    return DeployableEstimator(kind, pipeline, tuple(columns), tuple(numbers), tuple(names))


def _pipeline(kind: str, columns: Sequence[Column], model: Any) -> Any:
    """The model behind encoders of the columns."""
    from sklearn.compose import ColumnTransformer  # an extra, and slow to import
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    levels = [place for place, column in enumerate(columns) if column.levels]
    numeric = [place for place, column in enumerate(columns) if not column.levels]
    known = [np.arange(len(columns[place].levels), dtype=np.float32) for place in levels]
    encoder = OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
    scaler = StandardScaler() if kind == "linear" else "passthrough"
    parts = [("levels", encoder, levels), ("numbers", scaler, numeric)]
    encoders = ColumnTransformer([part for part in parts if part[2]])
    return Pipeline([("columns", encoders), ("model", model)])


def _regressor(kind: str, outputs: int, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge
    from sklearn.multioutput import MultiOutputRegressor

    if kind == "linear":
        return Ridge()
    trees = HistGradientBoostingRegressor(max_iter=ROUNDS, early_stopping=False, random_state=seed)
    return trees if outputs == 1 else MultiOutputRegressor(trees)


def _classifier(kind: str, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression

    if kind == "linear":
        return LogisticRegression(max_iter=1000)
    return HistGradientBoostingClassifier(max_iter=ROUNDS, early_stopping=False, random_state=seed)
