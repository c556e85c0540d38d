"""Load a student that a run saved: its network, its classes and what it reads."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from fedkd.core import recalibrated
from fedkd.errors import DataError, SettingsError
from fedkd.models import Shape, build_network, build_table_network
from fedkd.protocol import (
    Column,
    NamedTask,
    Number,
    decode_numbers,
    recorded_columns,
    recorded_numbers,
    task_slices,
    tasks_of_outputs,
)

STUDENT = "student.safetensors"
_INSTEAD = {
    "tasks": "has several tasks; call predict_tasks",
    "numbers": "predicts numbers; call predict_numbers",
    "embedding": "outputs an embedding; call network",
}
"""What to do with a student that predicts no classes of one task, by what it predicts."""


@dataclass(frozen=True, eq=False)
class SavedStudent:
    """What `fedkd.load` returns."""

    network: nn.Module
    """In evaluation mode: (B, C, H, W) float in [0, 1] -> (B, K)."""
    classes: tuple[str, ...]
    """Names of its outputs, (K,), in their order."""
    shape: Shape
    """(C, H, W) of its images; (1, 1, D) of rows."""
    tasks: tuple[NamedTask, ...] = ()
    """Of a student of several tasks: which, in the order of its outputs."""
    predicts: str = "classes"
    """What its outputs are: classes, numbers, tasks or embedding."""
    columns: tuple[Column, ...] = ()
    """(D,) of the rows that it reads, see `fedkd.protocol.encode_rows`; empty: it reads images."""
    numbers: tuple[Number, ...] = ()
    """(K,) that it predicts; empty: it predicts no numbers."""

    def recalibrated(self, images: torch.Tensor) -> "SavedStudent":
        """The same student with batch-norm statistics of these images, which need no labels.

        Needed after a run with ``questions.batch_statistics``: the student's own statistics are
        those of made-up images. Bring some hundred of your own, of all kinds that you have.

        Args:
            images: (N, C, H, W), N >= 2, uint8 or float in [0, 1].

        Raises:
            DataError: fewer than two images.
        """
        return replace(self, network=recalibrated(self.network, images))

    def predict(self, images: torch.Tensor) -> list[str]:
        """The likeliest class of each image, (B, C, H, W) float in [0, 1].

        Raises:
            SettingsError: it has several tasks, or predicts no classes.
        """
        if self.predicts != "classes":
            raise SettingsError(f"this student {_INSTEAD[self.predicts]}")
        with torch.no_grad():
            return [self.classes[place] for place in self.network(images).argmax(1).tolist()]

    def predict_tasks(self, images: torch.Tensor) -> dict[str, list[str]]:
        """By name of task, the likeliest class of each image, (B, C, H, W) float in [0, 1].

        Empty where it has one task, see `predict`.
        """
        with torch.no_grad():
            outputs = self.network(images)
        found = {}
        for task, at in zip(self.tasks, task_slices(self.tasks).values(), strict=True):
            found[task.name] = [task.class_names[k] for k in outputs[:, at].argmax(1).tolist()]
        return found

    def predict_numbers(self, samples: torch.Tensor) -> dict[str, list[float]]:
        """By name of number, the prediction for each sample, (B, C, H, W) float in [0, 1].

        In the number's unit; a little outside of its range where the network is. Empty where it
        predicts no numbers, see `predict`.
        """
        if not self.numbers:
            return {}
        with torch.no_grad():
            shares = self.network(samples)
        found = decode_numbers(shares, self.numbers).T.tolist()
        return {number.name: own for number, own in zip(self.numbers, found, strict=True)}


def load(path: str | Path, student: nn.Module | None = None) -> SavedStudent:
    """Load a saved student. A file cannot run code.

    Args:
        path: of a .safetensors file that `FitResult.save` or a run wrote, or of a run's folder.
        student: of the network that was trained, where it is none of fedkd's; it gets the weights.

    Raises:
        SettingsError: the network is not fedkd's, and ``student`` is missing.
        DataError: the file is no student, or its weights are of another network.
    """
    file = Path(path) / STUDENT if Path(path).is_dir() else Path(path)
    try:
        with safe_open(file, "pt") as opened:
            notes = json.loads((opened.metadata() or {})["fedkd"])
        channels, height, width = (int(side) for side in notes["shape"].split("x"))
        names = notes.get("class_names")
        classes = tuple(json.loads(names)) if names else _numbers(int(notes["classes"]))
        weights = load_file(file)
        domain, task = (json.loads(notes.get(each, "{}")) for each in ("domain", "task"))
        columns = recorded_columns(domain) if domain.get("kind") == "table" else ()
        predicts = str(task.get("kind", "classes"))
        numbers = recorded_numbers(task) if predicts == "numbers" else ()
        tasks = tasks_of_outputs(classes) if predicts == "tasks" else ()
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{file} is no student of fedkd's ({type(error).__name__}); name the "
            "student.safetensors of a run, or its folder"
        ) from error
    shape = (channels, height, width)
    network = student
    if network is None:
        network = _network(str(notes["student"]), len(classes), shape, columns)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(
            f"{file} has the weights of another network: {' '.join(str(error).split())[:200]}; "
            "give the network that was trained as student"
        ) from error
    network.eval()
    return SavedStudent(network, classes, shape, tasks, predicts, columns, numbers)


def _network(name: str, outputs: int, shape: Shape, columns: tuple[Column, ...]) -> nn.Module:
    try:
        if columns:
            return build_table_network(name, outputs, columns, seed=0)
        return build_network(name, outputs, shape, seed=0)
    except SettingsError as error:
        raise SettingsError(
            f"this student is a network of its own ({name!r}), which is not built here; give the "
            "one that was trained: fedkd.load(path, student=...)"
        ) from error


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))
