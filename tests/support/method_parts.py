"""What a method's generator and sources are made of, for comparison with papers."""

from fedkd.losses import Batch
from fedkd.methods import Method
from fedkd.synthesis import GeneratorNetwork, LatentBatch, PixelBatch
from tests.support.tapped_generators import generator_of


def weights_of(method: Method, progress: float) -> dict[str, float]:
    """Weight of each term of its generator."""
    return {term.name: weight(progress) for weight, term in generator_of(method).terms}


def total(method: Method, batch: Batch, progress: float) -> float:
    """The generator's weighted terms, summed."""
    return sum(w(progress) * float(t.value(batch)) for w, t in generator_of(method).terms)


def shares_of(method: Method, progress: float) -> dict[str, float]:
    """Share of the questions of each source that has one."""
    return {name: schedule(progress) for name, (_, schedule) in method.sources.items() if schedule}


def latent_of(method: Method) -> int:
    target = generator_of(method).target
    assert isinstance(target, GeneratorNetwork | LatentBatch)
    return target.latent


def steps_of(method: Method) -> int:
    """Steps that are spent on one batch."""
    target = generator_of(method).target
    assert isinstance(target, PixelBatch)
    return target.steps
