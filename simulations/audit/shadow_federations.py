"""Many small federations over the same images, each with other members. Knows no attack.

Every world is a run of the real thing: institutions train teachers in their vaults, answer through
their doors, and a student is distilled. A fair coin decides for each image whether it is in a
world at all, and an even draw at which institution.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedkd.data.datasets import Dataset, open_data
from fedkd.errors import SettingsError
from fedkd.evaluation import logits
from fedkd.experiment import Experiment
from fedkd.protocol import Ask, Signal
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.simulations.engines.local import LocalInstitutions


@dataclass(frozen=True, eq=False)
class Pool:
    """Images whose membership is asked about, and others that no world ever trains on."""

    candidates: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor
    """(N,) int64, some of them wrong on purpose."""
    population: Tensor
    """(Z, C, H, W) uint8."""
    population_labels: Tensor
    """(Z,) int64, as many of them wrong."""
    truth: Tensor
    """(Z,) int64, none of them wrong."""

    def save(self, path: Path) -> None:
        """As ``npz:`` data for institutions; the population is in the test data's place."""
        np.savez(
            path,
            train_images=self.candidates.permute(0, 2, 3, 1).numpy(),
            train_labels=self.labels.numpy(),
            test_images=self.population.permute(0, 2, 3, 1).numpy(),
            test_labels=self.population_labels.numpy(),
        )


def pool(experiment: Experiment, images: int, label_noise: float, rng: np.random.Generator) -> Pool:
    """A pool of an experiment's data.

    Args:
        experiment: whose training images are candidates, and whose test images are the population.
        images: N, >= 1; fewer where there are fewer.
        label_noise: chance that a label is replaced by another class, in [0, 1].
        rng: chooses images and wrong labels.

    Raises:
        SettingsError: a number out of range.
        DataError: there are no such data.
    """
    if images < 1 or not 0 <= label_noise <= 1:
        raise SettingsError(f"{images} images, label noise {label_noise}; expected > 0, 0 to 1")
    data: Dataset = open_data(experiment.institutions.data, experiment.institutions.root)
    picked = torch.from_numpy(rng.permutation(len(data.train_labels))[:images])

    def noisy(labels: Tensor) -> Tensor:
        wrong = torch.from_numpy(rng.random(len(labels)) < label_noise)
        shift = torch.from_numpy(rng.integers(1, data.classes, len(labels)))
        return torch.where(wrong, (labels + shift) % data.classes, labels)

    return Pool(
        data.train_images[picked],
        noisy(data.train_labels[picked]),
        data.test_images,
        noisy(data.test_labels),
        data.test_labels,
    )


@dataclass(frozen=True, eq=False)
class World:
    """What came of one federation."""

    inside: NDArray[np.bool_]
    """(T, N) whose teacher was trained on which candidate."""
    answers: Tensor
    """(T, N + Z, K) logits of the teachers, through their doors, as they travel."""
    student: Tensor
    """(N + Z, K) logits of the student."""


def worlds(
    experiment: Experiment,
    of: Pool,
    count: int,
    rng: np.random.Generator,
    done: Callable[[], None] = lambda: None,
) -> list[World]:
    """Run ``count`` federations; ``done`` is called after each.

    Raises:
        FedkdError: whatever a run raises.
    """
    with tempfile.TemporaryDirectory(prefix="fedkd-audit-") as folder:
        of.save(Path(folder, "pool.npz"))
        made = []
        for number in range(count):
            made.append(_world(experiment, of, Path(folder), number, rng))
            done()
        return made


def _world(
    experiment: Experiment, of: Pool, folder: Path, number: int, rng: np.random.Generator
) -> World:
    teachers = experiment.institutions.count
    # Every image is tossed; whoever is in goes to an institution.
    owner = rng.integers(0, teachers, len(of.labels))
    owner[rng.random(len(of.labels)) < 0.5] = -1
    inside = np.stack([owner == index for index in range(teachers)])
    if not inside.any(1).all():
        raise SettingsError("an institution was dealt no image; take more images or fewer of them")
    dealt = folder / f"world-{number}.npz"
    parts: dict[str, Any] = {f"client_{i}": own.nonzero()[0] for i, own in enumerate(inside)}
    np.savez(dealt, **parts)
    own = experiment.institutions.model_copy(
        update={
            "data": "npz:pool.npz",
            "root": str(folder),
            "partition": "file",
            "partition_file": str(dealt),
        }
    )
    local = LocalInstitutions(
        experiment.model_copy(update={"institutions": own}),
        folder / f"teachers-{number}",
        lambda _: None,
    )
    parts_of = ingredients(experiment, local.cards)
    Coordinator(parts_of, list(local.cards), local.answer).finish()
    asked = torch.cat([of.candidates, of.population])
    return World(inside, _answers(local, asked), logits(parts_of.student, asked))


def _answers(local: LocalInstitutions, images: Tensor) -> Tensor:
    said = []
    for piece in torch.split(images, min(card.largest_batch for card in local.cards)):
        replies, lost = local.answer(Ask(piece))
        if lost:
            raise SettingsError(
                "an institution refused the attack; raise policy.samples and policy.largest_batch"
            )
        said.append(torch.stack([r.signals[Signal.LOGITS].float() for r in replies.values()]))
    return torch.cat(said, dim=1)
