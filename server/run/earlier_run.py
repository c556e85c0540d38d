"""The earlier run of a student that goes on: its folder, its student and its institutions.

A finished run's folder keeps the student, and neither samples nor answers. So a grown run uses the
student alone: frozen, it answers for its classes, and no institution of the earlier run is asked.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from safetensors import SafetensorError, safe_open
from safetensors.torch import load

from fedkd.core.device import MEMORY
from fedkd.domains import Images, Table
from fedkd.errors import DataError, SettingsError
from fedkd.experiment import Experiment, Grow, Student
from fedkd.models import FrozenStudent
from fedkd.protocol import recorded_columns
from fedkd.server.report.records.result_schema import Result
from fedkd.server.report.records.run_folder import RESULT, load_result
from fedkd.server.run.manifest import MANIFEST

STUDENT = "student.safetensors"
DIGEST_BYTES = 16


@dataclass(frozen=True, eq=False)
class EarlierRun:
    """A finished run whose student goes on."""

    path: Path
    """Of its folder."""
    result: Result
    notes: Mapping[str, str]
    """Metadata of the student's file."""
    file: bytes
    """The student's file."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the student's outputs, (K_old,)."""
        return tuple(json.loads(self.notes["class_names"]))

    @property
    def model(self) -> str:
        """Name of the student's network."""
        return self.notes["student"]

    @property
    def institutions(self) -> tuple[str, ...]:
        """Names of those that taught it."""
        return tuple(teacher.name for teacher in self.result.teachers)

    @property
    def digest(self) -> str:
        """Of the student's file."""
        return blake3(self.file).hexdigest(DIGEST_BYTES)

    def student(self, device: torch.device = MEMORY) -> FrozenStudent:
        """The student, frozen.

        Raises:
            SettingsError: its network cannot be built here.
            DataError: its weights are of another network.
        """
        kind = json.loads(self.notes["domain"])
        shape = tuple(int(side) for side in self.notes["shape"].split("x"))
        domain: Images | Table = Images((shape[0], shape[1], shape[2]))
        if kind["kind"] == "table":
            domain = Table(recorded_columns(kind))
        settings = Experiment(name="earlier", student=Student(model=self.model))
        try:
            network = domain.student(settings, len(self.classes))
        except SettingsError as error:
            raise SettingsError(
                f"the student of {self.path} is a network {self.model!r}, which cannot be built "
                f"here ({error}); its run goes on only where that network is known by name"
            ) from None
        try:
            network.load_state_dict(load(self.file))
        except RuntimeError as error:
            raise DataError(
                f"{self.path / STUDENT} has the weights of another network than {self.model!r}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from None
        columns = domain.columns if isinstance(domain, Table) else ()
        return FrozenStudent(network.to(device), self.classes, domain.shape, columns)


def read_earlier_run(path: Path) -> EarlierRun:
    """The finished run in a folder.

    Raises:
        DataError: no run finished there, it left no student, or a file cannot be read.
        SettingsError: its student does not predict classes.
    """
    if not path.is_dir():
        raise DataError(f"--grow {path}: no such folder; name the folder that a finished run left")
    if not (path / RESULT).is_file():
        unfinished = (path / MANIFEST).is_file()
        what = "is not finished; resume it first" if unfinished else "is none; name another folder"
        raise DataError(f"--grow {path}: the run there {what}")
    if not (path / STUDENT).is_file():
        raise DataError(f"--grow {path}: the run left no {STUDENT} to go on with")
    try:
        with safe_open(path / STUDENT, "pt") as opened:
            notes: dict[str, Any] = json.loads((opened.metadata() or {})["fedkd"])
        file = (path / STUDENT).read_bytes()
        named = {"student", "class_names", "domain", "task", "shape"} - notes.keys()
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            f"--grow {path}: its {STUDENT} cannot be read ({type(error).__name__})"
        ) from None
    if named:
        raise DataError(
            f"--grow {path}: its student does not tell its {', '.join(sorted(named))}; run it "
            "again with this release"
        )
    if json.loads(notes["task"])["kind"] != "classes":
        raise SettingsError(
            f"--grow {path}: its student predicts numbers, or several tasks; only classes can be "
            "added, to a student of classes"
        )
    return EarlierRun(path, load_result(path / RESULT), notes, file)


def earlier_run(grow: Grow) -> EarlierRun | None:
    """The earlier run that settings name; None: the student begins anew.

    Raises:
        DataError: see `read_earlier_run`, or its student is another than when the run began.
        SettingsError: likewise.
    """
    if grow.run is None:
        if grow.first is not None:
            raise SettingsError(
                f"the student goes on with that of a run of {grow.first}; name the folder of a "
                "finished one: --grow RUN"
            )
        return None
    run = read_earlier_run(Path(grow.run))
    if grow.student not in (None, run.digest):
        raise DataError(
            f"--grow {grow.run}: its student is not the one that this run began with; bring that "
            "one back, or start the run again"
        )
    return run


def with_earlier_student(experiment: Experiment) -> Experiment:
    """``experiment`` with the digest and the whole path of its earlier run, if it has one.

    Raises:
        DataError: see `earlier_run`.
        SettingsError: likewise.
    """
    if (run := earlier_run(experiment.grow)) is None:
        return experiment
    settled = {"run": str(run.path.resolve()), "student": run.digest}
    return experiment.model_copy(update={"grow": experiment.grow.model_copy(update=settled)})


def grown_from(experiment: Experiment, folder: Path | None) -> Experiment:
    """``experiment``, to go on with the student of the run in ``folder``; None: as it is."""
    if folder is None:
        return experiment
    grow = experiment.grow.model_copy(update={"run": str(folder), "student": None})
    return experiment.model_copy(update={"grow": grow})
