"""Recipes (a generator and a seed instead of images) as protobuf: encode, decode, limits."""

import numpy as np
import torch
from torch import Tensor

from fedkd.errors import LocalProtocolError
from fedkd.protocol import FrozenGenerator, NamedPrior, Recipe
from fedkd.wire.tensors import WEIGHTS, TensorReader, TensorWriter
from fedkd.wire.v1 import teacher_pb2 as pb

MAX_RECIPE_SAMPLES = 65_536
"""Most images of one recipe."""
MAX_RECIPE_PIXELS = {NamedPrior: 1 << 24, FrozenGenerator: 1 << 22}
"""Most pixels of one recipe, each image counted as a square of its longer side in every channel: a
few seconds of rendering. 4,096 CIFAR images by a prior, 1,365 by a generator."""
MAX_NAME_LENGTH = 64
"""Characters of the name of a prior."""
FINGERPRINT_BYTES = 16
"""Length of a fingerprint."""


def exceeds_limits(recipe: Recipe, shape: tuple[int, int, int]) -> bool:
    """Whether it renders more images of ``shape`` (C, H, W) than an institution accepts."""
    channels, height, width = shape
    pixels = recipe.count * channels * max(height, width) ** 2
    return pixels > MAX_RECIPE_PIXELS[type(recipe.source)]


def check_recipe(recipe: Recipe, images: bytes) -> None:
    """Raises LocalProtocolError where a recipe, or the fingerprint of its images, cannot be."""
    if not (1 <= recipe.count <= MAX_RECIPE_SAMPLES and 0 <= recipe.seed < 2**32):
        raise LocalProtocolError(
            f"a recipe of no image, of more than {MAX_RECIPE_SAMPLES}, or of no seed"
        )
    kept = recipe.kept
    if kept is not None and not (len(kept) == recipe.count and 0 < len(recipe) < recipe.count):
        raise LocalProtocolError(
            "a recipe whose bits select no image, or all, or others than it has"
        )
    if len(images) != FINGERPRINT_BYTES:
        raise LocalProtocolError(
            f"a fingerprint of {len(images)} bytes, expected {FINGERPRINT_BYTES}"
        )
    match recipe.source:
        case NamedPrior(name, warp, mix):
            if not (0 < len(name) <= MAX_NAME_LENGTH and 0 <= warp <= 1 and 0 <= mix <= 1):
                raise LocalProtocolError("a prior without a name, or with shares outside [0, 1]")
        case FrozenGenerator(latent, digest):
            if latent < 1 or len(digest) != FINGERPRINT_BYTES:
                raise LocalProtocolError("a generator without latents, or without a fingerprint")


def encode_recipe(recipe: Recipe, images: bytes, out: TensorWriter) -> pb.Recipe:
    """The protobuf message of a recipe; a generator's weights become a payload."""
    kept = b"" if recipe.kept is None else np.packbits(recipe.kept.numpy()).tobytes()
    body = pb.Recipe(seed=recipe.seed, count=recipe.count, kept=kept, images=images)
    match recipe.source:
        case NamedPrior(name, warp, mix):
            body.prior.CopyFrom(pb.Procedural(name=name, warp=warp, mix=mix))
        case FrozenGenerator(latent, digest, weights):
            sent = None if weights is None else out.put(WEIGHTS, weights)
            body.network.CopyFrom(pb.Network(latent=latent, digest=digest, weights=sent))
    return body


def decode_recipe(recipe: pb.Recipe, contents: TensorReader) -> Recipe:
    """The recipe of a protobuf message.

    Raises:
        LocalProtocolError: an unknown kind of source, or malformed bits.
    """
    source: NamedPrior | FrozenGenerator
    match recipe.WhichOneof("source"):
        case "prior":
            source = NamedPrior(recipe.prior.name, recipe.prior.warp, recipe.prior.mix)
        case "network":
            sent = recipe.network
            weights = contents.take(WEIGHTS, sent.weights) if sent.HasField("weights") else None
            source = FrozenGenerator(sent.latent, sent.digest, weights)
        case _:
            raise LocalProtocolError("a recipe of unknown kind")
    return Recipe(source, recipe.seed, recipe.count, _kept(recipe.kept, recipe.count))


def _kept(bits: bytes, count: int) -> Tensor | None:
    """Which of ``count`` images belong to the query; None for all."""
    if not bits:
        return None
    if len(bits) != -(-count // 8) or count > MAX_RECIPE_SAMPLES:
        raise LocalProtocolError(f"{len(bits)} bytes that select among {count} images")
    kept = np.unpackbits(np.frombuffer(bits, np.uint8)).astype(bool)
    if kept[count:].any():
        raise LocalProtocolError("bits of a recipe beyond its images")
    return torch.from_numpy(kept[:count])
