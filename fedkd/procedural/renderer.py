"""Images by recipe: the same bytes on both sides of the wire. Knows no wire and no teacher.

    recipe = Recipe(NamedPrior("levels", warp=0.5), seed=7, count=256)
    images = draw(recipe, (1, 28, 28))            # (256, 1, 28, 28) uint8

Both sides call `render`. What it paints depends on floating point, whose last bits may differ from
one processor or release of torch to another: a pixel in millions then falls on the other side of a
rounding. Whoever names images by recipe therefore says their fingerprint too, and shows them where
it does not come out. A network paints in float64 from weights in float16, so that a difference in
the last bits is a difference of 1e-13 of a grey level.
"""

from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call

from fedkd.errors import DataError
from fedkd.models import Generator
from fedkd.procedural.priors import PRIORS, Prior, build_prior
from fedkd.procedural.transforms import CutMixed, Warped, images_per_block
from fedkd.protocol import FrozenGenerator, NamedPrior, Recipe, fingerprint

Shape: TypeAlias = tuple[int, int, int]
"""(C, H, W) of one image."""

SEED_LIMIT = 2**32
"""Seeds of recipes are below."""
MAX_LATENT = 4096
"""Z of a network that is painted by."""


def render(recipe: Recipe, shape: Shape) -> Tensor:
    """The images that are meant: (B, C, H, W) uint8.

    Raises:
        SettingsError: a prior that is not known, or shares outside [0, 1].
        DataError: a network without weights, or with weights of other layers.
    """
    rng = torch.Generator().manual_seed(recipe.seed)
    source = recipe.source
    if isinstance(source, NamedPrior):
        images = build_prior(source.name, source.warp, source.mix).draw(recipe.count, shape, rng)
    else:
        images = _painted(source, recipe.count, shape, rng)
    return images if recipe.kept is None else images[recipe.kept]


def named_prior(drawn: Prior) -> NamedPrior | None:
    """The name by which ``drawn`` can be had; None where it has none, or other parameters."""
    plain, warp, mix = drawn, 0.0, 0.0
    if isinstance(plain, CutMixed):
        mix, plain = plain.share, plain.prior
    if isinstance(plain, Warped):
        warp, plain = plain.share, plain.prior
    names = (name for name, kind in PRIORS.items() if plain == kind())
    name = next(names, None)
    if name is None or build_prior(name, warp, mix) != drawn:
        return None
    return NamedPrior(name, warp, mix)


def frozen_generator(generator: Generator) -> FrozenGenerator | None:
    """``generator`` as it paints from now on, in float16; None where that has no finite weights.

    Its layers must be those that a `Generator` of its latent and shape has by default.
    """
    if generator.latent > MAX_LATENT:
        return None
    parts = [value.detach().flatten() for _, value in _weights(generator)]
    weights = torch.cat(parts).half().cpu()  # painted from where recipes are
    if len(weights) != _size(generator.latent, generator.shape) or not weights.isfinite().all():
        return None
    return FrozenGenerator(generator.latent, fingerprint(weights), weights)


@torch.no_grad()
def _painted(network: FrozenGenerator, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
    """G(z), z ~ N(0, 1), block by block."""
    flat = network.weights
    if flat is None or not 0 < network.latent <= MAX_LATENT:
        raise DataError("a network without weights, or too large; show the images instead")
    layers = _layers(network.latent, shape)
    named = _weights(layers)
    if len(flat) != _size(network.latent, shape):
        raise DataError(f"{len(flat)} weights for a network of other layers; show the images")
    parts = torch.split(flat.double(), [value.numel() for _, value in named])
    weights = {
        name: part.view(value.shape) for (name, value), part in zip(named, parts, strict=True)
    }
    # Of double precision, the sampler has one way for every processor.
    latents = torch.randn(count, network.latent, generator=rng, dtype=torch.float64)
    images = torch.empty(count, *shape, dtype=torch.uint8)
    blocks = (torch.split(each, images_per_block(shape)) for each in (images, latents))
    for block, z in zip(*blocks, strict=True):
        block.copy_((functional_call(layers, weights, (z,)) * 255.0).round_().clamp_(0, 255))
    return images


def _layers(latent: int, shape: Shape) -> Generator:
    """The layers alone: no memory is taken, and nothing is drawn from the global generator."""
    with torch.device("meta"):
        return Generator(latent, shape).eval()


def _weights(generator: Generator) -> list[tuple[str, Tensor]]:
    """All that its images depend on, in the order of its layers."""
    state = generator.state_dict()
    return [(name, value) for name, value in state.items() if value.is_floating_point()]


def _size(latent: int, shape: Shape) -> int:
    return sum(value.numel() for _, value in _weights(_layers(latent, shape)))
