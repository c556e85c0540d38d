"""A run as it is read from its folder: result, events and arrays of samples and predictions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkd.errors import DataError
from fedkd.server.report.records.event_schema import Event
from fedkd.server.report.records.result_schema import Result
from fedkd.server.report.records.run_arrays import Arrays

GALLERY_ARRAYS = ("images", "origin", "asked_at", "label", "confidence")
"""Arrays of a gallery: the fields of `Gallery`."""


@dataclass(frozen=True, eq=False)
class Gallery:
    """A few dozen synthetic samples, evenly from the whole run.

    Raises:
        DataError: the arrays do not fit one another.
    """

    images: NDArray[np.uint8]
    """``(n, C, H, W)``."""
    origin: NDArray[np.str_]
    """``(n,)``, the prior or the source."""
    asked_at: NDArray[np.int64]
    """``(n,)``, samples asked of each teacher when this one was asked about."""
    label: NDArray[np.int64]
    """``(n,)``, the class of the fused answer."""
    confidence: NDArray[np.float32]
    """``(n,)``, the fused answer's probability of that class, in [0, 1]."""

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(
                f"gallery images are {self.images.dtype} {self.images.shape}; "
                "expected uint8 (n, C, H, W)"
            )
        expected = (len(self.images),)
        for name in ("origin", "asked_at", "label", "confidence"):
            if (shape := getattr(self, name).shape) != expected:
                raise DataError(f"gallery {name} has shape {shape}; expected {expected}")


@dataclass(frozen=True, eq=False)
class RunRecord:
    """The content of a run's folder."""

    name: str
    """Of the folder."""
    result: Result
    events: tuple[Event, ...] = ()
    gallery: Gallery | None = None
    rows: Arrays | None = None
    """Of a table: see `fedkd.server.report.tables.table_rows`."""
    predictions: Arrays | None = None
    """See `fedkd.server.report.tables.predictions`."""
    files: Mapping[str, int] | None = None
    """Size in bytes of each file that the run left, by name."""
