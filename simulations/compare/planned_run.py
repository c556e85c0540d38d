"""One run of a comparison: variant, resolved experiment, folder."""

from dataclasses import dataclass
from pathlib import Path

from fedkd.experiment import Experiment
from fedkd.simulations.compare.variants import Variant

CHECKPOINT = 60.0
"""Seconds between checkpoints of a run."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison."""

    variant: Variant
    experiment: Experiment
    path: Path
