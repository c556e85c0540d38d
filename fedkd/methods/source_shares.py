"""Helpers to define methods: shares of sample sources, and gradient estimators by name."""

from collections.abc import Callable, Mapping
from typing import get_args, get_type_hints

from fedkd.core.interfaces import SourceSpec
from fedkd.core.schedules import constant, ramp
from fedkd.errors import SettingsError
from fedkd.methods.method import Method, Share
from fedkd.synthesis import (
    CandidateSelection,
    Evolution,
    Gradient,
    ProceduralPriors,
    gradient_named,
)


def shares(
    generator: SourceSpec | None,
    warm_up: float = 0.0,
    generated: float = 1.0,
    evolved: float = 0.0,
    candidates: int = 1,
) -> dict[str, Share]:
    """Sources "prior", "evolution" and "generator", and the share of the questions that each has.

    Args:
        generator: a source that is trained; None: there is none.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that.
        evolved: share of the priors' questions that the bank's evolution takes over.
        candidates: samples that priors draw for each that is asked about, >= 1; above 1 the student
            chooses, see `fedkd.synthesis.prior_sampling.candidate_selection`.
    """
    priors = ProceduralPriors()
    evolution = Evolution(priors)
    drawn = priors if candidates == 1 else CandidateSelection(priors, candidates)
    if generator is None:
        return {
            "prior": Share(drawn, constant(1.0 - evolved)),
            "evolution": Share(evolution, constant(evolved)),
        }
    trained = ramp(0.0, generated, warm_up, warm_up)
    return {
        "prior": Share(drawn, lambda p: (1.0 - trained(p)) * (1.0 - evolved)),
        "evolution": Share(evolution, lambda p: (1.0 - trained(p)) * evolved),
        "generator": Share(generator, trained),
    }


def trained_by(paper: str, name: str, ways: tuple[str, ...]) -> Gradient:
    """The gradient of that name, for a paper whose generator can learn by ``ways`` alone.

    Raises:
        SettingsError: there is none, or the generator would learn nothing by it.
    """
    how = gradient_named(name)
    if name not in ways:
        raise SettingsError(
            f"{paper} has nothing to learn by gradient {name!r}; choose one of {', '.join(ways)}"
        )
    return how


def gradients_of(factory: Callable[..., Method]) -> tuple[str, ...]:
    """The gradients by which a method's generator can learn, its default first.

    The factory's signature names them; where it takes no ``gradient``, there is one.
    """
    hints: Mapping[str, object] = get_type_hints(factory)
    return get_args(hints["gradient"]) if "gradient" in hints else (factory().gradient.name,)
