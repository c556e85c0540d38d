"""Fingerprints of recipes as this process renders them; a command, to compare processes."""

import json

import torch

from fedkd.models import Generator
from fedkd.procedural import PRIORS, render
from fedkd.protocol import FrozenGenerator, NamedPrior, Recipe, fingerprint

DIGIT, COLOUR = (1, 8, 8), (3, 32, 32)
SOURCES = {
    **{name: NamedPrior(name) for name in PRIORS},
    "warped": NamedPrior("leaves", warp=0.5),
    "mixed": NamedPrior("leaves", mix=0.5),
    "both": NamedPrior("levels", 0.3, 0.7),
}


def example_weights() -> FrozenGenerator:
    """A generator for `DIGIT` with weights by formula, equal on every machine."""
    with torch.device("meta"):
        state = Generator(16, DIGIT).state_dict()
    signed = [
        torch.ones(value.numel())
        if "var" in name
        else (torch.arange(value.numel()) * 7919 % 101 - 50) / 64
        for name, value in state.items()
        if value.is_floating_point()
    ]
    weights = torch.cat(signed).half()
    return FrozenGenerator(16, fingerprint(weights), weights)


def example_generator(shape: tuple[int, int, int] = DIGIT, latent: int = 16) -> Generator:
    """A generator that has seen a few batches, the same one wherever it is made."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(5)
        generator = Generator(latent, shape)
        for _ in range(3):
            generator(torch.randn(32, latent))
    return generator


def recipe_fingerprints() -> dict[str, str]:
    """Fingerprint of a batch by each source, at two sizes."""
    batches = [(source, DIGIT, 64) for source in SOURCES]
    batches += [(source, COLOUR, 16) for source in SOURCES]
    found = {
        f"{name} {'x'.join(map(str, shape))}": render(Recipe(SOURCES[name], 11, count), shape)
        for name, shape, count in batches
    }
    found["network 1x8x8"] = render(Recipe(example_weights(), 11, 64), DIGIT)
    return {name: fingerprint(images).hex() for name, images in found.items()}


if __name__ == "__main__":
    print(json.dumps(recipe_fingerprints(), indent=1))
