"""Neural networks of teachers, students and generators, and teachers that answer with signals.

Architectures are had by name from the registry; weights depend on a seed alone.
"""

from fedkd.models.architectures import Network, Shape
from fedkd.models.generators import Generator
from fedkd.models.in_process_teachers import InProcess
from fedkd.models.registry import (
    MODELS,
    build_network,
    check_network_name,
    penultimate_features,
    reinitialised,
)
from fedkd.models.teacher import (
    CHUNK,
    MIN_PROBABILITY,
    ModuleTeacher,
    ScikitTeacher,
    Teacher,
    require_signals,
)
from fedkd.models.wavelet_scattering import Scattering

__all__ = [
    "CHUNK",
    "MIN_PROBABILITY",
    "MODELS",
    "Generator",
    "InProcess",
    "ModuleTeacher",
    "Network",
    "Scattering",
    "ScikitTeacher",
    "Shape",
    "Teacher",
    "build_network",
    "check_network_name",
    "penultimate_features",
    "reinitialised",
    "require_signals",
]
