"""Sample synthesis: sources that propose samples to ask about, and learn from the answers.

A source is named by a frozen spec, the settings of a part; what it builds stays in its module.
"""

from fedkd.synthesis.auxiliary_networks.gan_discriminator import Discriminator
from fedkd.synthesis.auxiliary_networks.instance_discriminator import InstanceDiscriminator
from fedkd.synthesis.auxiliary_networks.interface import AuxiliaryNetwork, BaseAuxiliaryNetwork
from fedkd.synthesis.auxiliary_networks.teacher_instance_discriminator import (
    TeacherInstanceDiscriminator,
)
from fedkd.synthesis.class_generators import GeneratorPerClass
from fedkd.synthesis.contrastive_sample_source import ContrastiveSamples
from fedkd.synthesis.data_impressions import DataImpressions
from fedkd.synthesis.feature_collecting_source import RememberedFeatures
from fedkd.synthesis.generative_replay.student_taught_vae import GenerativeReplay
from fedkd.synthesis.generative_replay.teacher_taught_vae import TeacherReplay
from fedkd.synthesis.generator_parameterisation import GeneratorNetwork
from fedkd.synthesis.meta_initialisation import MetaLatentBatch
from fedkd.synthesis.mutated_bank_samples import Evolution
from fedkd.synthesis.output_diversified_sampling import OutputDiversified
from fedkd.synthesis.parameterisation import (
    BaseParameterisation,
    Drawn,
    Parameterisation,
    ParameterisationSpec,
    to_bytes,
)
from fedkd.synthesis.pixel_and_latent_parameterisation import LatentBatch, PixelBatch
from fedkd.synthesis.prior_sampling.candidate_selection import CandidateSelection
from fedkd.synthesis.prior_sampling.prior_parameter_bandit import PriorParameterBandit
from fedkd.synthesis.prior_sampling.prior_source import ProceduralPriors
from fedkd.synthesis.public_pool import PublicSamples, rule_named
from fedkd.synthesis.row_parameterisation import RowBatch
from fedkd.synthesis.source_scheduler import Scheduled, SourceScheduler
from fedkd.synthesis.surrogate_trained_source import SurrogateTrained
from fedkd.synthesis.teacher_gradients import (
    EARLIER_STUDENT,
    GRADIENTS,
    NONE,
    PULL_BACK,
    STRAIGHT_THROUGH,
    STUDENT,
    Gradient,
    forward_differences,
    gradient_named,
)
from fedkd.synthesis.trained_generator_source import TrainedGenerator, TrainedSource

__all__ = [
    "EARLIER_STUDENT",
    "GRADIENTS",
    "NONE",
    "PULL_BACK",
    "STRAIGHT_THROUGH",
    "STUDENT",
    "AuxiliaryNetwork",
    "BaseAuxiliaryNetwork",
    "BaseParameterisation",
    "CandidateSelection",
    "ContrastiveSamples",
    "DataImpressions",
    "Discriminator",
    "Drawn",
    "Evolution",
    "GenerativeReplay",
    "GeneratorNetwork",
    "GeneratorPerClass",
    "Gradient",
    "InstanceDiscriminator",
    "LatentBatch",
    "MetaLatentBatch",
    "OutputDiversified",
    "Parameterisation",
    "ParameterisationSpec",
    "PixelBatch",
    "PriorParameterBandit",
    "ProceduralPriors",
    "PublicSamples",
    "RememberedFeatures",
    "RowBatch",
    "Scheduled",
    "SourceScheduler",
    "SurrogateTrained",
    "TeacherInstanceDiscriminator",
    "TeacherReplay",
    "TrainedGenerator",
    "TrainedSource",
    "forward_differences",
    "gradient_named",
    "rule_named",
    "to_bytes",
]
