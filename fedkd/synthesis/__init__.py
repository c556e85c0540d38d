"""Sample synthesis: sources that propose samples to ask about, and learn from the answers.

A source is named by a frozen spec, the settings of a part; what it builds stays in its module.
"""

from fedkd.synthesis.companions import BaseCompanion, Companion
from fedkd.synthesis.contrastive_samples import ContrastiveSamples
from fedkd.synthesis.data_impressions import DataImpressions
from fedkd.synthesis.discriminator import Discriminator
from fedkd.synthesis.evolution import Evolution
from fedkd.synthesis.generative_replay import GenerativeReplay
from fedkd.synthesis.generator_network import GeneratorNetwork
from fedkd.synthesis.generator_training import TrainedGenerator, TrainedSource
from fedkd.synthesis.gradients import (
    GRADIENTS,
    NONE,
    PULL_BACK,
    STRAIGHT_THROUGH,
    STUDENT,
    Gradient,
    forward_differences,
    gradient_named,
)
from fedkd.synthesis.instance_discrimination import InstanceDiscriminator
from fedkd.synthesis.inversion import LatentBatch, PixelBatch
from fedkd.synthesis.meta_initialisation import MetaLatentBatch
from fedkd.synthesis.output_diversified_sampling import OutputDiversified
from fedkd.synthesis.priors import ProceduralPriors
from fedkd.synthesis.public_samples import PublicSamples
from fedkd.synthesis.scheduler import Scheduled, SourceScheduler
from fedkd.synthesis.surrogate import SurrogateTrained
from fedkd.synthesis.target import BaseTarget, Drawn, SynthesisTarget, TargetSpec, to_bytes

__all__ = [
    "GRADIENTS",
    "NONE",
    "PULL_BACK",
    "STRAIGHT_THROUGH",
    "STUDENT",
    "BaseCompanion",
    "BaseTarget",
    "Companion",
    "ContrastiveSamples",
    "DataImpressions",
    "Discriminator",
    "Drawn",
    "Evolution",
    "GenerativeReplay",
    "GeneratorNetwork",
    "Gradient",
    "InstanceDiscriminator",
    "LatentBatch",
    "MetaLatentBatch",
    "OutputDiversified",
    "PixelBatch",
    "ProceduralPriors",
    "PublicSamples",
    "Scheduled",
    "SourceScheduler",
    "SurrogateTrained",
    "SynthesisTarget",
    "TargetSpec",
    "TrainedGenerator",
    "TrainedSource",
    "forward_differences",
    "gradient_named",
    "to_bytes",
]
