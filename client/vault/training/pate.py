"""Trains the voters of PATE: many teachers of one institution, each on images of its own.

Knows neither where the images lie nor what noise hides the votes. Which voter an image teaches
depends on its pixels and a key, and on no other image: with one image more or less, one voter is
another and all others are what they were, in training and in vote. So it must stay: a voter may
depend on its own images, its number and the settings, and on nothing else.
"""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from fedkd.client.vault.model_cache import find, keep, key_of, note_of
from fedkd.client.vault.pate_ensemble import Committee
from fedkd.client.vault.training.supervised import SCIKIT, TeachSettings, Watch, train_teacher
from fedkd.errors import DataError
from fedkd.models.networks import build
from fedkd.models.teacher import ModuleTeacher, Teacher


def shares(images: Tensor, voters: int, key: bytes) -> Tensor:
    """Which voter each of (N, C, H, W) uint8 images teaches, (N,): by its pixels and the key."""
    numbers = (
        int.from_bytes(blake2b(image.numpy().tobytes(), key=key, digest_size=8).digest())
        for image in images.contiguous()
    )
    return torch.tensor([number % voters for number in numbers], dtype=torch.int64)


def train_committee(
    model: str,
    images: Tensor,
    labels: Tensor,
    classes: int,
    settings: TeachSettings,
    voters: int,
    seed: int,
    folder: Path | None = None,
    holding: Mapping[str, object] | None = None,
    watch: Watch | None = None,
) -> Committee:
    """Voters of an institution; one that has too few images casts no vote.

    Args:
        model: see `fedkd.client.vault.training.supervised.train_teacher`.
        images: (N, C, H, W) uint8.
        labels: (N,) int64 in 0..K-1.
        classes: K; to be known without looking at the images.
        settings: how a network is trained.
        voters: how many, >= 1.
        seed: of the initial weights.
        folder: keeps a network of each and the key, so that an image more or less trains one
            voter anew; None keeps nothing and draws another key.
        holding: what else the voters depend on, as JSON takes it.
        watch: told how many have been taught.

    Raises:
        SettingsError: no such model, or the images are too small for it.
        DataError: what is kept cannot be read or written.
    """
    share, taught = shares(images, voters, key_of(folder)), []
    kept = None if model.startswith(SCIKIT) else folder
    for number in range(voters):
        mine = share == number
        told = (model, images[mine], labels[mine], classes)
        at = kept and kept / f"voter-{number:05d}"
        taught.append(_voter(*told, settings, seed * voters + number, at, holding or {}))
        if watch is not None:
            watch(number + 1, voters)
    return Committee(taught, classes)


def _voter(
    model: str,
    images: Tensor,
    labels: Tensor,
    classes: int,
    settings: TeachSettings,
    seed: int,
    folder: Path | None,
    holding: Mapping[str, object],
) -> Teacher | None:
    """One voter, of its own images alone: found, or trained; None where they are too few."""
    note = note_of(model, classes, images, labels, holding)
    if folder is not None:
        channels, height, width = images.shape[1:]
        if found := find(folder, note, build(model, classes, (channels, height, width), seed)):
            return ModuleTeacher(found.network, classes)
    try:
        teacher = train_teacher(model, images, labels, classes, settings, seed)
    except (DataError, ValueError):
        return None  # ValueError: scikit-learn's word for too little to learn from
    if folder is not None and isinstance(teacher, ModuleTeacher):
        keep(folder, note, teacher)
    return teacher
