"""Train shadow federations for membership inference: same candidates, other members in each.

Each is a whole run: institutions train teachers in their vaults and answer through their release
gates, and a student is distilled. A fair coin decides for each image whether it is a member of a
federation, and a uniform draw at which institution.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedkd.data.dataset import Dataset
from fedkd.data.datasets import open_data
from fedkd.data.partition_file import write_partition
from fedkd.errors import SettingsError
from fedkd.evaluation import predict_logits
from fedkd.experiment import Experiment
from fedkd.protocol import Ask, Column, LabelSpaces, Signal
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.simulations.engines.local import LocalInstitutions

POOL, KIND = "pool.safetensors", "pool.json"
"""Files of the candidates and the population, and of what they are."""


@dataclass(frozen=True, eq=False)
class CandidateData:
    """Candidates for membership, and a population that no federation is trained on."""

    candidates: Tensor
    """(N, C, H, W) uint8, or rows (N, 1, 1, D) float32."""
    labels: Tensor
    """(N,) int64, some of them replaced by wrong ones."""
    population: Tensor
    """(Z, C, H, W), likewise."""
    population_labels: Tensor
    """(Z,) int64, with the same share of wrong ones."""
    truth: Tensor
    """(Z,) int64, the true labels of the population."""
    classes: int
    """K."""
    columns: tuple[Column, ...] = ()
    """(D,) of a table; empty: they are images."""
    class_names: tuple[str, ...] = ()
    """(K,); empty: classes are numbered."""

    def save(self, folder: Path) -> None:
        """Write the data of institutions, for `open_pool`, with the population as test data."""
        samples = {
            "train_images": self.candidates,
            "train_labels": self.labels,
            "test_images": self.population,
            "test_labels": self.population_labels,
        }
        save_file({name: own.contiguous() for name, own in samples.items()}, folder / POOL)
        kind = {
            "classes": self.classes,
            "columns": [asdict(column) for column in self.columns],
            "class_names": list(self.class_names),
        }
        (folder / KIND).write_text(json.dumps(kind))


def open_pool(root: str) -> Dataset:
    """What `CandidateData.save` wrote to the folder ``root``."""
    kind = json.loads(Path(root, KIND).read_text())
    columns = tuple(
        Column(**{**column, "levels": tuple(column["levels"])}) for column in kind["columns"]
    )
    samples = load_file(Path(root, POOL))
    return Dataset(
        "pool",
        kind["classes"],
        samples["train_images"],
        samples["train_labels"],
        samples["test_images"],
        samples["test_labels"],
        columns=columns,
        class_names=tuple(kind["class_names"]),
    )


def draw_candidates(
    experiment: Experiment, images: int, label_noise: float, rng: np.random.Generator
) -> CandidateData:
    """Draw candidates and population from an experiment's data.

    Args:
        experiment: whose training images are candidates, and whose test images are the population.
        images: N, >= 1; fewer where there are fewer.
        label_noise: probability that a label is replaced by another class, in [0, 1].
        rng: chooses images and wrong labels.

    Raises:
        SettingsError: a number out of range.
        DataError: there are no such data.
    """
    if images < 1 or not 0 <= label_noise <= 1:
        raise SettingsError(f"{images} images, label noise {label_noise}; expected > 0, 0 to 1")
    dataset: Dataset = open_data(experiment.institutions.data, experiment.institutions.root)
    if dataset.numbers:
        raise SettingsError(
            "membership is inferred from answers about classes, and these institutions predict "
            "numbers; name an experiment of classes"
        )
    chosen = torch.from_numpy(rng.permutation(len(dataset.train_labels))[:images])

    def noisy(labels: Tensor) -> Tensor:
        wrong = torch.from_numpy(rng.random(len(labels)) < label_noise)
        shift = torch.from_numpy(rng.integers(1, dataset.classes, len(labels)))
        return torch.where(wrong, (labels + shift) % dataset.classes, labels)

    return CandidateData(
        dataset.train_images[chosen],
        noisy(dataset.train_labels[chosen]),
        dataset.test_images,
        noisy(dataset.test_labels),
        dataset.test_labels,
        dataset.classes,
        dataset.columns,
        dataset.class_names,
    )


@dataclass(frozen=True, eq=False)
class ShadowFederation:
    """Members, answers and student of one federation."""

    members: NDArray[np.bool_]
    """(T, N) whether teacher t was trained on candidate n."""
    answers: Tensor
    """(T, N + Z, K) logits of the teachers as released, rounded as on the wire."""
    student: Tensor
    """(N + Z, K) logits of the student."""


def train_federations(
    experiment: Experiment,
    data: CandidateData,
    count: int,
    rng: np.random.Generator,
    on_federation: Callable[[], None] = lambda: None,
) -> list[ShadowFederation]:
    """Run ``count`` federations; ``on_federation`` is called after each.

    Raises:
        FedkdError: whatever a run raises.
    """
    with tempfile.TemporaryDirectory(prefix="fedkd-audit-") as folder:
        data.save(Path(folder))
        federations = []
        for number in range(count):
            federations.append(_train_federation(experiment, data, Path(folder), number, rng))
            on_federation()
        return federations


def _train_federation(
    experiment: Experiment, data: CandidateData, folder: Path, number: int, rng: np.random.Generator
) -> ShadowFederation:
    teachers = experiment.institutions.count
    # A coin for each image; members are drawn for an institution.
    institution_of = rng.integers(0, teachers, len(data.labels))
    institution_of[rng.random(len(data.labels)) < 0.5] = -1
    members = np.stack([institution_of == index for index in range(teachers)])
    if not members.any(1).all():
        raise SettingsError("an institution has no image; take more images or fewer institutions")
    partition_file = folder / f"world-{number}.npz"
    write_partition(partition_file, [torch.from_numpy(own).nonzero()[:, 0] for own in members])
    institutions = experiment.institutions.model_copy(
        update={
            "data": f"{__name__}:{open_pool.__name__}",
            "root": str(folder),
            "partition": "file",
            "partition_file": str(partition_file),
        }
    )
    local = LocalInstitutions(
        experiment.model_copy(update={"institutions": institutions}),
        folder / f"teachers-{number}",
        lambda _: None,
    )
    parts_of_run = ingredients(experiment, local.cards)
    Coordinator(parts_of_run, list(local.cards), local.answer).finish()
    images = torch.cat([data.candidates, data.population])
    # The student has its classes by the alphabet; answers and labels, in the order of the data.
    labels = LabelSpaces.of(local.cards)
    student = labels.to_local(local.cards[0].name, predict_logits(parts_of_run.student, images))
    return ShadowFederation(members, _answers(local, images), student)


def _answers(local: LocalInstitutions, images: Tensor) -> Tensor:
    logits = []
    for batch in torch.split(images, min(card.largest_batch for card in local.cards)):
        replies, refusals = local.answer(Ask(batch))
        if refusals:
            raise SettingsError(
                "an institution refused the attack; raise policy.samples and policy.largest_batch"
            )
        logits.append(torch.stack([r.signals[Signal.LOGITS].float() for r in replies.values()]))
    return torch.cat(logits, dim=1)
