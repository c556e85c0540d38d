"""Neural networks of teachers, students and generators, and teachers that answer with signals.

Architectures are had by name from the registry; weights depend on a seed alone.
"""

from fedkd.models.architectures import Network, Shape
from fedkd.models.batch_statistics import by_batch_statistics
from fedkd.models.embedding_teacher import EmbeddingTeacher
from fedkd.models.frozen_student import EARLIER_STUDENT, FrozenStudent, copy_grown_weights
from fedkd.models.generators import Generator, RowGenerator, StandardisedGenerator
from fedkd.models.in_process_teachers import InProcess, Outputs
from fedkd.models.library_networks import timm_factory, torchvision_factory
from fedkd.models.output_checks import (
    LogProbabilities,
    check_network,
    probe_images,
    sum_to_one,
)
from fedkd.models.registry import (
    MODELS,
    WIDTHS,
    build_network,
    narrow_network,
    network_factory,
    penultimate_features,
    reinitialised,
)
from fedkd.models.table_networks import (
    TABLE_MODELS,
    TableNetwork,
    build_table_network,
    check_student_name,
)
from fedkd.models.table_teacher import RowNetworkTeacher, TableTeacher
from fedkd.models.teacher import (
    CHUNK,
    MIN_PROBABILITY,
    Classes,
    ModuleTeacher,
    ScikitTeacher,
    Teacher,
    require_signals,
)
from fedkd.models.wavelet_scattering import Scattering

__all__ = [
    "CHUNK",
    "EARLIER_STUDENT",
    "MIN_PROBABILITY",
    "MODELS",
    "TABLE_MODELS",
    "WIDTHS",
    "Classes",
    "EmbeddingTeacher",
    "FrozenStudent",
    "Generator",
    "InProcess",
    "LogProbabilities",
    "ModuleTeacher",
    "Network",
    "Outputs",
    "RowGenerator",
    "RowNetworkTeacher",
    "Scattering",
    "ScikitTeacher",
    "Shape",
    "StandardisedGenerator",
    "TableNetwork",
    "TableTeacher",
    "Teacher",
    "build_network",
    "build_table_network",
    "by_batch_statistics",
    "check_network",
    "check_student_name",
    "copy_grown_weights",
    "narrow_network",
    "network_factory",
    "penultimate_features",
    "probe_images",
    "reinitialised",
    "require_signals",
    "sum_to_one",
    "timm_factory",
    "torchvision_factory",
]
