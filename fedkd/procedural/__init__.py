"""Procedural priors: synthetic samples drawn without any data, and their rendering from recipes.

A prior is a frozen value; the same prior, count, shape and seed give the same bytes.
"""

from fedkd.procedural.base import Painted
from fedkd.procedural.collage import Collage
from fedkd.procedural.priors import (
    GENERAL,
    PRIORS,
    Leaves,
    Levels,
    Noise,
    Pink,
    Scales,
    Strokes,
    prior,
    priors,
)
from fedkd.procedural.random_fields import Shape
from fedkd.procedural.renderer import SEEDS, draw, network, procedural
from fedkd.procedural.transforms import CutMixed, Prior, Warped

__all__ = [
    "GENERAL",
    "PRIORS",
    "SEEDS",
    "Collage",
    "CutMixed",
    "Leaves",
    "Levels",
    "Noise",
    "Painted",
    "Pink",
    "Prior",
    "Scales",
    "Shape",
    "Strokes",
    "Warped",
    "draw",
    "network",
    "prior",
    "priors",
    "procedural",
]
