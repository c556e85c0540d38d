"""Run the CIFAR-10 experiment of the CuDFKD paper in several calls: train teacher, then student.

    python -m fedkd.simulations.reproduction.cudfkd_cifar10 --out DIR [--minutes 9]
        [--data parquet: --root FOLDER]

Each call resumes where the last one stopped, also after a kill, and prints the progress. The last
one writes ``DIR/run/result.json`` and ``report.html``. The first call stores the experiment for all
others. Where the data are JPEG files, the name of the experiment says so.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fedkd.client.institution import Institution, simulated_policy
from fedkd.client.vault.vault import Vault
from fedkd.core.augmentation import Augmentation
from fedkd.core.device import Compute
from fedkd.data.dataset import Dataset
from fedkd.errors import FedkdError, SettingsError
from fedkd.evaluation import (
    predict_logits,
    recall,
)
from fedkd.experiment import Experiment, load_experiment, parse_experiment
from fedkd.loop import Progress
from fedkd.models import ModuleTeacher, build_network
from fedkd.protocol import Signal
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.server.report.records.run_folder import RESULT, write_atomic
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.manifest import MANIFEST
from fedkd.server.run.run_recorder import Evaluation, RunRecorder, traffic_of
from fedkd.simulations.engines.evaluation import load_dataset, student_score
from fedkd.simulations.engines.local import LocalInstitutions
from fedkd.simulations.reproduction.teacher_training import TeacherSettings, train_until
from fedkd.tasks import Classification

EXPERIMENT = "headline.json"
"""File of the experiment that the first call was given."""
ENGINE, CHECKPOINT_INTERVAL = "headline", 20.0
"""Name of the engine in the results, and seconds between checkpoints."""


class _DeadlineError(Exception):
    """The time of this call is over."""


class _NetworkVault(Vault):
    """The vault of an institution whose teacher is a network in this process."""

    class_names = None
    scores = True
    fingerprints = ()
    guarantee = dp_training = None

    def __init__(self, network: nn.Module, dataset: Dataset) -> None:
        self._teacher = ModuleTeacher(network, dataset.classes)
        self._dataset = dataset

    @property
    def classes(self) -> int:
        return self._dataset.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._dataset.shape

    @property
    def teacher(self) -> ModuleTeacher:
        return self._teacher

    @property
    def class_counts(self) -> tuple[int, ...]:
        counts = self._dataset.train_labels.bincount(minlength=self.classes)
        return tuple(int(count) for count in counts)

    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """See `Vault.score`."""
        correct = (
            predict_logits(model, self._dataset.test_images).argmax(1) == self._dataset.test_labels
        )
        return int(correct.sum()), len(correct)


def continue_run(folder: Path, deadline: float) -> str:
    """Continue the experiment until the deadline; returns the progress in one line.

    Args:
        folder: given to the first call, with the experiment in it.
        deadline: on the monotonic clock, in seconds.

    Raises:
        FedkdError: whatever went wrong, in one line.
    """
    experiment = parse_experiment(json.loads((folder / EXPERIMENT).read_text()))
    torch.set_num_threads(experiment.student.threads)
    compute = Compute.of(experiment.student.device, experiment.student.precision)
    dataset = load_dataset(experiment.institutions.data, experiment.institutions.root)
    i = experiment.institutions
    settings = TeacherSettings(i.epochs, i.batch, i.learning_rate, Augmentation(i.shift, i.mirrors))
    network, share = train_until(
        build_network(i.models[0], dataset.classes, dataset.shape, experiment.seed),
        *(dataset, settings, compute),
        *(folder / "teacher.safetensors", deadline, experiment.seed),
    )
    if share < 1:
        return f"teacher: {share:.1%} of its steps are done; call again"
    try:
        return _distil(experiment, _NetworkVault(network, dataset), folder / "run", deadline)
    except _DeadlineError as stopped:
        return f"student: {stopped} of its steps are done; call again"


def _distil(experiment: Experiment, vault: _NetworkVault, path: Path, deadline: float) -> str:
    if (path / RESULT).exists():
        return f"done: {path / 'report.html'}"
    started = (path / MANIFEST).exists()
    checkpoint = (
        Checkpoint.resume(path, ENGINE)
        if started
        else Checkpoint.begin(path, experiment, ENGINE, CHECKPOINT_INTERVAL)
    )
    try:
        institution = Institution("institution-0", vault, simulated_policy(experiment))
        local = LocalInstitutions(experiment, path, lambda count: None, {0: institution})
        checkpoint.current_counts = lambda: {name: of.counts for name, of in local.traffic.items()}
        parts = ingredients(experiment, local.cards, checkpoint)

        def watch(progress: Progress) -> None:
            if time.monotonic() > deadline:
                raise _DeadlineError(f"{coordinator.done:.1%}")

        recorder = RunRecorder(
            *(path, experiment, ENGINE, lambda student: student_score(experiment, student)),
            *((watch,), checkpoint),
        )
        recorder.student = parts.student
        coordinator = Coordinator(parts, list(local.cards), local.answer, recorder)
        distilled = coordinator.finish()
        traffic = {name: traffic_of(counts) for name, counts in checkpoint.total_counts().items()}
        evaluation = _evaluate(distilled.student, vault)
        recorder.finish(distilled, local.cards, traffic, evaluation)
        checkpoint.finish()
    finally:
        checkpoint.close()
    return f"done: student {evaluation.student['accuracy']:.2%}; {path / 'report.html'}"


def _evaluate(student: nn.Module, vault: _NetworkVault) -> Evaluation:
    dataset = vault._dataset
    teacher_logits = vault.teacher.ask(dataset.test_images, frozenset({Signal.LOGITS}))[
        Signal.LOGITS
    ]
    student_logits, truth = predict_logits(student, dataset.test_images), dataset.test_labels
    task = Classification(tuple(map(str, range(dataset.classes))))
    teacher = task.scores(teacher_logits, truth)
    return Evaluation(
        {**task.scores(student_logits, truth), **task.agreement(student_logits, teacher_logits)},
        teacher,
        {"institution-0": teacher},
        dict(zip(task.names, recall(student_logits, truth), strict=True)),
    )


def _store_experiment(
    folder: Path, name: str, root: str | None, source: str, settings: Sequence[str]
) -> None:
    """Store the experiment that all calls continue."""
    overrides = [f'institutions.data="{source}"'] if source else []
    overrides += [f"institutions.root={json.dumps(root)}"] if root else []
    experiment = load_experiment(name, [*overrides, *settings])
    if experiment.institutions.count != 1:
        raise SettingsError(
            f"{experiment.institutions.count} institutions; this experiment has one "
            "teacher, for more use `fedkd run`"
        )
    if experiment.privacy.epsilon is not None:
        raise SettingsError("privacy.epsilon: this teacher is trained without DP; use `fedkd run`")
    if is_jpeg(experiment.institutions.data, experiment.institutions.root):
        experiment = experiment.model_copy(update={"name": f"{experiment.name} (JPEG)"})
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / EXPERIMENT, (experiment.model_dump_json(indent=2) + "\n").encode())


def is_jpeg(name: str, root: str | None) -> bool:
    """Whether the data are JPEG images in parquet files, and so not the published pixels."""
    kind, _, rest = name.partition(":")
    files = sorted(Path(root or "", rest).glob("*.parquet")) if kind == "parquet" else []
    if not files:
        return False
    from pyarrow import parquet

    row = next(parquet.ParquetFile(files[0]).iter_batches(1)).to_pylist()[0]
    image = row.get("img") or row.get("image") or {}
    return bytes(image.get("bytes", b"")).startswith(b"\xff\xd8\xff")


def main() -> int:
    """Entry point: one call; the exit status is 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.reproduction.cudfkd_cifar10",
        description=(__doc__ or "").split("\n", 1)[0],
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of all calls"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="time of this call")
    parser.add_argument("--experiment", default="cifar10-cudfkd", help="read by the first call")
    parser.add_argument("--data", default="", help="source other than torchvision: parquet:")
    parser.add_argument("--root", help="folder of the data")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    try:
        if not (options.out / EXPERIMENT).exists():
            _store_experiment(
                options.out, options.experiment, options.root, options.data, options.set
            )
        print(continue_run(options.out, deadline))
    except FedkdError as error:
        print(f"fedkd: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
