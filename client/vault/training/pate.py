"""PATE training: many teachers of one institution (voters), each on samples of its own.

Which voter a sample trains depends on its pixels and a key, and on no other sample. With one sample
more or less, one voter changes and all others stay as they are, in training and in vote. The
guarantee rests on this: a voter may depend on its own samples, its number and the settings alone.
"""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from fedkd.client.vault.disk_model_cache import (
    cache_metadata,
    load_cached_model,
    load_or_create_key,
    store_model,
)
from fedkd.client.vault.pate_ensemble import PateEnsemble
from fedkd.client.vault.training.settings import ProgressCallback, SupervisedSettings
from fedkd.client.vault.training.supervised import SKLEARN_PREFIX, train_teacher
from fedkd.errors import DataError
from fedkd.models import ModuleTeacher, Teacher, build_network


def assign_voters(images: Tensor, voters: int, key: bytes) -> Tensor:
    """The voter that each of (N, C, H, W) uint8 images trains, (N,): by its pixels and the key."""
    numbers = (
        int.from_bytes(blake2b(image.numpy().tobytes(), key=key, digest_size=8).digest())
        for image in images.contiguous()
    )
    return torch.tensor([number % voters for number in numbers], dtype=torch.int64)


def train_pate_ensemble(
    model: str,
    images: Tensor,
    labels: Tensor,
    classes: int,
    settings: SupervisedSettings,
    voters: int,
    seed: int,
    folder: Path | None = None,
    assets: Mapping[str, object] | None = None,
    progress: ProgressCallback | None = None,
) -> PateEnsemble:
    """Train the voters of an institution; one with too few samples casts no vote.

    Args:
        model: see `fedkd.client.vault.training.supervised.train_teacher`.
        images: (N, C, H, W) uint8.
        labels: (N,) int64 in 0..K-1.
        classes: K; to be known without looking at the images.
        settings: how a network is trained.
        voters: how many, >= 1.
        seed: of the initial weights.
        folder: caches a network of each and the key, so that a sample more or less trains one
            voter anew; None caches nothing and draws another key.
        assets: what else the voters depend on, as JSON takes it.
        progress: told how many voters are trained.

    Raises:
        SettingsError: no such model, or the images are too small for it.
        DataError: the cache cannot be read or written.
    """
    voter_of, trained = assign_voters(images, voters, load_or_create_key(folder)), []
    cache = None if model.startswith(SKLEARN_PREFIX) else folder
    for number in range(voters):
        own = voter_of == number
        data = (model, images[own], labels[own], classes)
        at = cache and cache / f"voter-{number:05d}"
        trained.append(_train_voter(*data, settings, seed * voters + number, at, assets or {}))
        if progress is not None:
            progress(number + 1, voters)
    return PateEnsemble(trained, classes)


def _train_voter(
    model: str,
    images: Tensor,
    labels: Tensor,
    classes: int,
    settings: SupervisedSettings,
    seed: int,
    folder: Path | None,
    assets: Mapping[str, object],
) -> Teacher | None:
    """One voter, from its own samples alone: cached or trained; None where they are too few."""
    metadata = cache_metadata(model, classes, images, labels, assets)
    if folder is not None:
        channels, height, width = images.shape[1:]
        if found := load_cached_model(
            folder,
            metadata,
            build_network(model, classes, (channels, height, width), seed, imports=True),
        ):
            return ModuleTeacher(found.network, classes)
    try:
        teacher = train_teacher(model, images, labels, classes, settings, seed)
    except (DataError, ValueError):
        return None  # ValueError: scikit-learn's error for too little data
    if folder is not None and isinstance(teacher, ModuleTeacher):
        store_model(folder, metadata, teacher)
    return teacher
