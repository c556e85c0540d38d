"""Images by recipe: what has one, and the same bytes wherever it is drawn by."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkd.core.source_types import Turn
from fedkd.domains import Images
from fedkd.errors import DataError
from fedkd.procedural import (
    PRIORS,
    CutMixed,
    DeadLeaves,
    PinkNoise,
    Warped,
    build_prior,
    frozen_generator,
    named_prior,
    render,
)
from fedkd.protocol import FrozenGenerator, NamedPrior, Recipe
from fedkd.synthesis.generator_parameterisation import GeneratorNetwork, GeneratorParameterisation
from fedkd.synthesis.prior_sampling.prior_source import PriorChoice
from fedkd.tasks import Classification
from tests.fedkd.procedural.recipe_fingerprints import DIGIT, example_generator, recipe_fingerprints

TEN = Classification(tuple("0123456789"))

GOLDEN = Path(__file__).parent / "golden_recipes.json"
"""As ``python -m tests.fedkd.procedural.recipe_fingerprints`` writes it, on a CPU with AVX2."""


def elsewhere(**environment: str) -> dict[str, str]:
    """What another process draws."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.fedkd.procedural.recipe_fingerprints"],
        env=os.environ | environment,
        cwd=GOLDEN.parents[3],
        capture_output=True,
        check=True,
        timeout=200,
    )
    return dict(json.loads(found.stdout))


def test_another_process_draws_the_same_images() -> None:
    assert elsewhere(OMP_NUM_THREADS="2") == recipe_fingerprints()


def test_images_are_those_of_every_machine_that_we_know() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert recipe_fingerprints().keys() == golden.keys()
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        # Elsewhere single precision may round otherwise: then images are shown, see below.
        golden = {name: of for name, of in golden.items() if name.startswith(("network", "noise"))}
    assert golden.items() <= recipe_fingerprints().items()


def test_a_network_paints_the_same_without_the_vector_units_of_this_processor() -> None:
    """torch's other code path stands for another processor: some priors differ on it."""
    there = elsewhere(ATEN_CPU_CAPABILITY="default")
    for name in ("network 1x8x8", "noise 1x8x8", "noise 3x32x32"):
        assert there[name] == recipe_fingerprints()[name]


@given(bits=st.lists(st.booleans(), min_size=2, max_size=30), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_a_recipe_of_some_images_draws_those(bits: list[bool], seed: int) -> None:
    recipe = Recipe(NamedPrior("levels", 0.5, 0.5), seed, len(bits))
    images, some = render(recipe, DIGIT), torch.tensor(bits)
    part = recipe.select(some)
    assert len(part) == sum(bits)
    assert torch.equal(render(part, DIGIT), images[some])
    if len(part):
        first = torch.arange(len(part)) == 0
        assert torch.equal(render(part.select(first), DIGIT), images[some][first])
    assert recipe.select(torch.ones(len(bits), dtype=torch.bool)).kept is None


@pytest.mark.parametrize("warp", [0.0, 0.5])
@pytest.mark.parametrize("mix", [0.0, 1.0])
@pytest.mark.parametrize("name", PRIORS)
def test_whatever_an_experiment_names_has_a_recipe(name: str, warp: float, mix: float) -> None:
    source = named_prior(build_prior(name, warp, mix))
    assert source == NamedPrior(name, warp, mix)


@pytest.mark.parametrize(
    "nameless",
    [
        DeadLeaves(leaves=3),
        Warped(DeadLeaves(leaves=3), 0.5),
        Warped(Warped(PinkNoise(), 0.5), 0.5),
        Warped(CutMixed(PinkNoise(), 0.5), 0.5),
        Warped(PinkNoise(), 0.0),  # draws once more than a plain one
    ],
    ids=repr,
)
def test_what_no_name_tells_is_drawn_and_shown(nameless: DeadLeaves) -> None:
    assert named_prior(nameless) is None
    rng = torch.Generator().manual_seed(0)
    drawn = PriorChoice({"ours": nameless}, DIGIT, TEN).propose(Turn(8, rng, 0.0))
    assert drawn is not None
    assert (drawn.recipe, len(drawn.images)) == (None, 8)


def test_a_batch_of_a_prior_needs_nothing_that_was_drawn_before() -> None:
    choice, rng = PriorChoice({"levels": build_prior("levels", 0.5)}, DIGIT, TEN), torch.Generator()
    rng.manual_seed(3)
    first, second = (choice.propose(Turn(8, rng, 0.0)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert not torch.equal(first.images, second.images)
    assert second.recipe is not None
    assert torch.equal(render(second.recipe, DIGIT), second.images)


def test_a_generator_that_learns_no_more_has_a_recipe() -> None:
    place = SimpleNamespace(place=lambda module: module)
    domain = Images(DIGIT)
    context = SimpleNamespace(shape=DIGIT, classes=10, seed=0, compute=place, domain=domain)
    source = GeneratorParameterisation(GeneratorNetwork(latent=16), context)  # type: ignore[arg-type]
    source.network, rng = example_generator(), torch.Generator().manual_seed(0)
    assert source.draw(8, rng, learning=True).recipe is None, "its weights change at every query"
    before = torch.random.get_rng_state()
    drawn = source.draw(8, rng, learning=False)
    assert drawn.recipe is not None
    assert torch.equal(render(drawn.recipe, DIGIT), drawn.images)
    assert torch.equal(torch.random.get_rng_state(), before)
    # The rounding of its weights is all that changes: grey levels stay within a few.
    source.network.eval()
    z = torch.randn(8, 16, dtype=torch.float64, generator=rng.manual_seed(drawn.recipe.seed))
    plain = (source.network.double()(z) * 255).detach()
    assert float((plain - drawn.images).abs().max()) < 4


def test_a_generator_of_numbers_that_are_none_has_no_recipe() -> None:
    generator = example_generator()
    with torch.no_grad():
        generator.conv3.bias[0] = float("nan")
    assert frozen_generator(generator) is None
    with torch.no_grad():
        generator.conv3.bias[0] = 1e6  # beyond float16
    assert frozen_generator(generator) is None


def test_weights_of_other_layers_are_refused_before_anything_is_built() -> None:
    fitting = frozen_generator(example_generator())
    assert fitting is not None
    assert fitting.weights is not None
    for latent, weights in ((17, fitting.weights), (16, fitting.weights[1:]), (16, None)):
        with pytest.raises(DataError, match="send"):
            render(Recipe(FrozenGenerator(latent, b"", weights), 0, 2), DIGIT)
    for latent in (0, 10**9):
        with pytest.raises(DataError, match="too large"):
            render(Recipe(FrozenGenerator(latent, b"", fitting.weights), 0, 2), DIGIT)
