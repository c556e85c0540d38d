"""Export of a deployable estimator: skops and ONNX, each read again and compared with it."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedkd.models.deployable_estimator import DeployableEstimator
from fedkd.process.private_files import make_private

SKOPS, ONNX = "estimator.skops", "estimator.onnx"
PARITY_ROWS = 256
"""Banked rows, at most, on which a file is compared with the estimator."""
MAX_DIFFERENCE = 1e-3
"""Of a prediction: in probability, or as a share of the number's range. ONNX has float32."""
TRUSTED = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn._loss.loss.HalfSquaredError",
)
"""Types of boosted trees, which skops does not build unless they are named."""
Predict = Callable[[NDArray[np.float32]], NDArray[np.float64]]


def export_estimator(
    estimator: DeployableEstimator, folder: Path, samples: Tensor
) -> dict[str, dict[str, Any]]:
    """Write `SKOPS` and `ONNX`, and compare each with the estimator on some of ``samples``.

    Args:
        estimator: fitted.
        folder: of the run.
        samples: (N, 1, 1, D) uint8, banked.

    Returns:
        By format, ``skops`` and ``onnx``: ``max_difference`` of a prediction, as `MAX_DIFFERENCE`
        says, ``rows``, and ``failed``, whether it is more than that, in which case there is no such
        file; or ``skipped``, a reason on one line.
    """
    every = max(1, len(samples) // PARITY_ROWS)
    rows = estimator.rows(samples[::every][:PARITY_ROWS])
    found: dict[str, dict[str, Any]] = {"skops": _write_skops(estimator, folder / SKOPS, rows)}
    missing = [n for n in ("onnx", "onnxruntime", "skl2onnx") if not importlib.util.find_spec(n)]
    if missing:
        return {**found, "onnx": {"skipped": "install fedkd[estimators]"}}
    return {**found, "onnx": _write_onnx(estimator, folder / ONNX, rows)}


def _write_skops(
    estimator: DeployableEstimator, path: Path, rows: NDArray[np.float32]
) -> dict[str, Any]:
    from skops.io import dump, load

    dump(estimator.pipeline, path)
    again = replace(estimator, pipeline=load(path, trusted=list(TRUSTED)))
    return compared(estimator, again.predict, path, rows)


def _write_onnx(
    estimator: DeployableEstimator, path: Path, rows: NDArray[np.float32]
) -> dict[str, Any]:
    import onnxruntime  # extras, and slow to import
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    inputs = [("rows", FloatTensorType([None, rows.shape[1]]))]
    options = None if estimator.numbers else {id(estimator.pipeline): {"zipmap": False}}
    path.write_bytes(
        to_onnx(estimator.pipeline, initial_types=inputs, options=options).SerializeToString()
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    output = session.get_outputs()[-1].name

    def predict(given: NDArray[np.float32]) -> NDArray[np.float64]:
        return estimator.in_order(session.run([output], {"rows": given})[0])

    return compared(estimator, predict, path, rows)


def compared(
    estimator: DeployableEstimator, theirs: Predict, path: Path, rows: NDArray[np.float32]
) -> dict[str, Any]:
    """Compare ``theirs``, read from ``path``, with the estimator on rows (N, D).

    A file that differs by more than `MAX_DIFFERENCE` is removed.
    """
    span = np.array([each.high - each.low for each in estimator.numbers] or [1.0])
    apart = np.abs(estimator.predict(rows) - theirs(rows)) / span
    largest = float(apart.max())
    failed = not largest <= MAX_DIFFERENCE
    if failed:
        path.unlink()
    else:
        make_private(path)
    return {"max_difference": largest, "rows": len(rows), "failed": failed}
