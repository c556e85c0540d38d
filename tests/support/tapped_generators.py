"""A method's generator, every step of which is written down: where it began and its gradient."""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.core.interfaces import Context
from fedkd.core.schedules import Schedule
from fedkd.methods import Method, Share
from fedkd.synthesis.auxiliary_networks.gan_discriminator import Discriminator
from fedkd.synthesis.generator_parameterisation import GeneratorParameterisation
from fedkd.synthesis.output_diversified_sampling import OutputDiversified
from fedkd.synthesis.parameterisation import Drawn, ParameterisationSpec
from fedkd.synthesis.pixel_and_latent_parameterisation import InvertedBatch
from fedkd.synthesis.trained_generator_source import TrainedGenerator


@dataclass
class Step:
    """All that a generator step depends on, and the gradient that it took."""

    target: Any
    """The synthesis target before it drew."""
    stream: Tensor
    """State of the random stream then."""
    student: nn.Module | None = None
    taken: dict[str, Tensor] = field(default_factory=dict)
    progress: float = math.nan
    """By which its terms are weighted."""
    previous: "Step | None" = None
    """Whose terms this one is compared with; None: zero."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    """Of institutions, where they are learned."""
    discriminator: nn.Module | None = None


def trained(target: object) -> nn.Module:
    """What the optimiser of a synthesis target trains."""
    if isinstance(target, GeneratorParameterisation):
        return target.network
    assert isinstance(target, InvertedBatch)
    return target.module


@dataclass(frozen=True, eq=False)
class Tapped:
    """Settings of a synthesis target that also writes down every step."""

    spec: ParameterisationSpec
    steps: list[Step]
    discriminator: Discriminator | None

    def build(self, context: Context) -> "TappedTarget":
        return TappedTarget(self, context)


class TappedTarget:
    """The target that the settings would build; whatever is asked of it, it does."""

    def __init__(self, tapped: Tapped, context: Context) -> None:
        self.target, self.tapped, self.context = tapped.spec.build(context), tapped, context

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)

    def draw(self, count: int, rng: torch.Generator, learning: bool) -> Drawn:
        assert learning
        self.tapped.steps.append(Step(copy.deepcopy(self.target), rng.get_state()))
        return self.target.draw(count, rng, learning)

    def backward(self) -> None:
        step, spec = self.tapped.steps[-1], self.tapped.discriminator
        step.taken = {n: p.grad.clone() for n, p in trained(self.target).named_parameters()}
        if spec is not None:
            network = self.context.part(spec).network
            step.discriminator = copy.deepcopy(network).eval().double()
        self.target.backward()


def generator_of(method: Method) -> TrainedGenerator:
    spec = method.sources["generator"].spec
    spec = spec.source if isinstance(spec, OutputDiversified) else spec
    assert isinstance(spec, TrainedGenerator)
    return spec


def noted(schedule: Schedule, steps: list[Step]) -> Schedule:
    """The same schedule, which writes down the progress that it is followed at."""

    def value(progress: float) -> float:
        if steps:
            steps[-1].progress = progress
        return schedule(progress)

    return value


def tapped(method: Method, steps: list[Step]) -> Method:
    """The same method, whose generator writes down every step."""
    generator, (spec, schedule) = generator_of(method), method.sources["generator"]
    read = [each for _, term in generator.terms for each in term.reads]
    discriminator = next((each for each in read if isinstance(each, Discriminator)), None)
    watched: Any = replace(
        generator,
        terms=tuple((noted(schedule, steps), term) for schedule, term in generator.terms),
        target=Tapped(generator.target, steps, discriminator),
    )
    if isinstance(spec, OutputDiversified):
        watched = replace(spec, source=watched)
    return replace(method, sources={**method.sources, "generator": Share(watched, schedule)})
