"""A made table of patients, with levels by name, for tests of teachers that read rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

COLUMNS = """
[[columns]]
name = "age"
low = 18
high = 100
whole = true

[[columns]]
name = "ward"
levels = ["intensive", "general", "burns"]

[[columns]]
name = "grade"
levels = ["1", "2", "3"]

[[columns]]
name = "fever"
low = 36.0
high = 42.0
"""
STAY = '\n[[predict]]\nname = "stay"\nunit = "days"\nlow = 0\nhigh = 60\n'
OUTCOME = '\n[predict]\nname = "outcome"\nclasses = ["well", "ill"]\n'
WARDS = ("intensive", "general", "burns")
NAMES = ("age", "ward", "grade", "fever")


def patients(count: int = 400, seed: int = 0) -> Any:
    """A DataFrame with the columns, ``stay`` in days and ``outcome``."""
    rng = np.random.default_rng(seed)
    ward = rng.choice(WARDS, count)
    frame = pandas.DataFrame(
        {
            "age": rng.integers(18, 101, count),
            "ward": ward,
            "grade": rng.integers(1, 4, count),
            "fever": rng.uniform(36, 42, count),
        }
    )
    slow = pandas.Series(ward).map({"intensive": 20.0, "general": 0.0, "burns": 10.0})
    stay = 0.2 * (frame["age"] - 18) + slow + 4 * frame["grade"] + 0.5 * (frame["fever"] - 36)
    return frame.assign(stay=stay, outcome=np.where(stay > 24, "ill", "well"))


def natural(rows: NDArray[np.uint8]) -> Any:
    """Rows of bytes, (N, 4), as a DataFrame in their own units, by this page's own arithmetic."""
    level = ((rows + 0.5) * 3 // 256).astype(int)
    return pandas.DataFrame(
        {
            "age": np.round(18 + rows[:, 0] / 255 * 82),
            "ward": np.array(WARDS, dtype=object)[level[:, 1]],
            "grade": level[:, 2] + 1,
            "fever": 36 + rows[:, 3] / 255 * 6,
        }
    )


def write_schemas(folder: Path) -> None:
    """``stay.toml`` and ``outcome.toml``."""
    (folder / "stay.toml").write_text(COLUMNS + STAY)
    (folder / "outcome.toml").write_text(COLUMNS + OUTCOME)
