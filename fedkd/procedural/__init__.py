"""Procedural priors: synthetic samples drawn without any data, and their rendering from recipes.

A prior is a frozen value; the same prior, count, shape and seed give the same bytes.
"""

from fedkd.core.interfaces import Prior
from fedkd.procedural.base import ProceduralPrior
from fedkd.procedural.drawing_primitives import Shape
from fedkd.procedural.image_priors import (
    DeadLeaves,
    LevelSets,
    MultiscaleNoise,
    PinkNoise,
    Strokes,
    UniformNoise,
)
from fedkd.procedural.photo_crops import PhotoCollage, PhotoCrops
from fedkd.procedural.registry import (
    DEFAULT_PRIORS,
    PRIORS,
    TABLE_PRIORS,
    build_prior,
    build_priors,
    check_prior,
)
from fedkd.procedural.renderer import SEED_LIMIT, frozen_generator, named_prior, render
from fedkd.procedural.textured_dead_leaves import Collage
from fedkd.procedural.warp_and_cutmix import CutMixed, Warped

__all__ = [
    "DEFAULT_PRIORS",
    "PRIORS",
    "SEED_LIMIT",
    "TABLE_PRIORS",
    "Collage",
    "CutMixed",
    "DeadLeaves",
    "LevelSets",
    "MultiscaleNoise",
    "PhotoCollage",
    "PhotoCrops",
    "PinkNoise",
    "Prior",
    "ProceduralPrior",
    "Shape",
    "Strokes",
    "UniformNoise",
    "Warped",
    "build_prior",
    "build_priors",
    "check_prior",
    "frozen_generator",
    "named_prior",
    "render",
]
