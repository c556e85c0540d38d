"""Neural networks of teachers, students and generators, and teachers that answer with signals.

Architectures are had by name from the registry; weights depend on a seed alone.
"""

from fedkd.models.architectures import Network, Shape
from fedkd.models.generators import Canvas, Generator, Latents, Painter, Pixels
from fedkd.models.in_process_teachers import InProcess
from fedkd.models.registry import MODELS, anew, build, features
from fedkd.models.scattering import Scattering
from fedkd.models.teacher import (
    CHUNK,
    LEAST_PROBABILITY,
    ModuleTeacher,
    ScikitTeacher,
    Teacher,
    must_know,
)

__all__ = [
    "CHUNK",
    "LEAST_PROBABILITY",
    "MODELS",
    "Canvas",
    "Generator",
    "InProcess",
    "Latents",
    "ModuleTeacher",
    "Network",
    "Painter",
    "Pixels",
    "Scattering",
    "ScikitTeacher",
    "Shape",
    "Teacher",
    "anew",
    "build",
    "features",
    "must_know",
]
