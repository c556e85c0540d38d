"""Rendering of recipes: the same synthetic images, byte for byte, on both sides of the wire.

    recipe = Recipe(NamedPrior("levels", warp=0.5), seed=7, count=256)
    images = render(recipe, (1, 28, 28))          # (256, 1, 28, 28) uint8

Both sides call `render`. Its result depends on floating point, whose last bits may differ from one
processor or release of torch to another: a pixel in millions is then rounded to another value. A
query by recipe therefore carries the fingerprint of its images, and the images are sent where the
fingerprint differs. A generator renders in float64 from weights in float16, so that a difference in
the last bits is a difference of 1e-13 of a grey level.
"""

from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call

from fedkd.core.interfaces import Prior
from fedkd.errors import DataError
from fedkd.models import Generator
from fedkd.procedural.registry import build_prior, known_priors, plain_prior
from fedkd.procedural.warp_and_cutmix import CutMixed, Warped, images_per_block
from fedkd.protocol import FrozenGenerator, NamedPrior, Recipe, fingerprint

Shape: TypeAlias = tuple[int, int, int]
"""(C, H, W) of one image."""

SEED_LIMIT = 2**32
"""Seeds of recipes are smaller."""
MAX_LATENT = 4096
"""Largest Z of a generator in a recipe."""


def render(recipe: Recipe, shape: Shape) -> Tensor:
    """The images of a recipe: (B, C, H, W) uint8.

    Raises:
        SettingsError: a prior that is not known, or shares outside [0, 1].
        DataError: a generator without weights, or with weights of other layers.
    """
    rng = torch.Generator().manual_seed(recipe.seed)
    source = recipe.source
    if isinstance(source, NamedPrior):
        images = build_prior(source.name, source.warp, source.mix).draw(recipe.count, shape, rng)
    else:
        images = _render_generator(source, recipe.count, shape, rng)
    return images if recipe.kept is None else images[recipe.kept]


def named_prior(prior: Prior) -> NamedPrior | None:
    """``prior`` by its name; None where it has none, or other parameters than the default ones."""
    plain, warp, mix = prior, 0.0, 0.0
    if isinstance(plain, CutMixed):
        mix, plain = plain.share, plain.prior
    if isinstance(plain, Warped):
        warp, plain = plain.share, plain.prior
    name = next((name for name in known_priors() if plain == plain_prior(name)), None)
    if name is None or build_prior(name, warp, mix) != prior:
        return None
    return NamedPrior(name, warp, mix)


def frozen_generator(generator: Generator) -> FrozenGenerator | None:
    """The present weights of ``generator`` in float16; None where they are not finite.

    Its layers must be those that a `Generator` of its latent and shape has by default.
    """
    if generator.latent > MAX_LATENT:
        return None
    parts = [value.detach().flatten() for _, value in _weights(generator)]
    weights = torch.cat(parts).half().cpu()  # recipes are rendered on the CPU
    if len(weights) != _size(generator.latent, generator.shape) or not weights.isfinite().all():
        return None
    return FrozenGenerator(generator.latent, fingerprint(weights), weights)


@torch.no_grad()
def _render_generator(
    source: FrozenGenerator, count: int, shape: Shape, rng: torch.Generator
) -> Tensor:
    """G(z), z ~ N(0, 1), block by block."""
    flat = source.weights
    if flat is None or not 0 < source.latent <= MAX_LATENT:
        raise DataError("a generator without weights, or too large; send the images instead")
    layers = _layers(source.latent, shape)
    named = _weights(layers)
    if len(flat) != _size(source.latent, shape):
        raise DataError(f"{len(flat)} weights for a generator of other layers; send the images")
    parts = torch.split(flat.double(), [value.numel() for _, value in named])
    weights = {
        name: part.view(value.shape) for (name, value), part in zip(named, parts, strict=True)
    }
    # In double precision, normal variates are the same on every processor.
    latents = torch.randn(count, source.latent, generator=rng, dtype=torch.float64)
    images = torch.empty(count, *shape, dtype=torch.uint8)
    blocks = (torch.split(each, images_per_block(shape)) for each in (images, latents))
    for block, z in zip(*blocks, strict=True):
        block.copy_((functional_call(layers, weights, (z,)) * 255.0).round_().clamp_(0, 255))
    return images


def _layers(latent: int, shape: Shape) -> Generator:
    """A generator on the meta device: it takes no memory and no random numbers."""
    with torch.device("meta"):
        return Generator(latent, shape).eval()


def _weights(generator: Generator) -> list[tuple[str, Tensor]]:
    """Floating-point parameters and buffers, in the order of the layers."""
    state = generator.state_dict()
    return [(name, value) for name, value in state.items() if value.is_floating_point()]


def _size(latent: int, shape: Shape) -> int:
    return sum(value.numel() for _, value in _weights(_layers(latent, shape)))
