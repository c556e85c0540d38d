"""The figure of a paper, in as many calls as it takes: teacher, student, page.

    python -m fedkd.simulations.headline.cudfkd_cifar10 --minutes 9 --out DIR [--data parquet: --root FOLDER]

Each call goes on where the last one stopped, however it stopped, and says what is left; the one
that comes to the end leaves ``DIR/run/result.json`` and ``report.html``. The experiment is the one
that the first call was given, and data that lie as JPEG are named so.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fedkd.client.institution import Institution, policy
from fedkd.client.vault.vault import Vault
from fedkd.core.compute import Compute
from fedkd.data.datasets import Dataset
from fedkd.errors import FedkdError, SettingsError
from fedkd.evaluation.metrics import (
    accuracy,
    agreement,
    fidelity,
    fidelity_double_root,
    logits,
    recall,
)
from fedkd.experiment.experiment import Experiment, load, parse
from fedkd.loop import Progress
from fedkd.models.teacher import ModuleTeacher
from fedkd.protocol.signals import Signal
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.server.report.run_folder import RESULT, write_whole
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.manifest import MANIFEST
from fedkd.server.run.recorder import Chronicle, Verdict, traffic_of
from fedkd.simulations.engines.evaluation import data, score
from fedkd.simulations.engines.local import Local
from fedkd.simulations.headline.teacher_training import Lessons, trained

EXPERIMENT = "headline.json"
"""What the first call was given."""
ENGINE, EVERY = "headline", 20.0
"""Who drives the run, and the seconds between its states."""


class _TimeUpError(Exception):
    """The call has had its minutes."""


class _AtHand(Vault):
    """The vault of an institution whose teacher is a network on a device."""

    class_names = None
    scores = True
    fingerprints = ()
    guarantee = training = None

    def __init__(self, network: nn.Module, told: Dataset) -> None:
        self._teacher = ModuleTeacher(network, told.classes)
        self._told = told

    @property
    def classes(self) -> int:
        return self._told.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._told.shape

    @property
    def teacher(self) -> ModuleTeacher:
        return self._teacher

    @property
    def class_counts(self) -> tuple[int, ...]:
        counts = self._told.train_labels.bincount(minlength=self.classes)
        return tuple(int(count) for count in counts)

    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """See `Vault.score`."""
        right = logits(model, self._told.test_images).argmax(1) == self._told.test_labels
        return int(right.sum()), len(right)


def go_on(folder: Path, deadline: float) -> str:
    """Do what there is time for, and say how far it came.

    Args:
        folder: of the first call, with the experiment in it.
        deadline: on the monotonic clock, in seconds.

    Raises:
        FedkdError: whatever went wrong, in one line.
    """
    experiment = parse(json.loads((folder / EXPERIMENT).read_text()))
    torch.set_num_threads(experiment.student.threads)
    compute = Compute.of(experiment.student.device, experiment.student.precision)
    told = data(experiment.institutions.data, experiment.institutions.root)
    i = experiment.institutions
    network, share = trained(
        *(i.models[0], told, Lessons(i.epochs, i.batch, i.learning_rate), compute),
        *(folder / "teacher.safetensors", deadline, experiment.seed),
    )
    if share < 1:
        return f"teacher: {share:.1%} of its steps are done; call again"
    try:
        return _distil(experiment, _AtHand(network, told), folder / "run", deadline)
    except _TimeUpError as stopped:
        return f"student: {stopped} of its steps are done; call again"


def _distil(experiment: Experiment, vault: _AtHand, path: Path, deadline: float) -> str:
    if (path / RESULT).exists():
        return f"done: {path / 'report.html'}"
    begun = (path / MANIFEST).exists()
    way_back = (
        Checkpoint.resume(path, ENGINE)
        if begun
        else Checkpoint.begin(path, experiment, ENGINE, EVERY)
    )
    try:
        institution = Institution("institution-0", vault, policy(experiment))
        local = Local(experiment, path, lambda count: None, {0: institution})
        way_back.counted = lambda: {name: vars(of) for name, of in local.traffic.items()}
        parts = ingredients(experiment, local.cards, way_back)

        def watch(progress: Progress) -> None:
            if time.monotonic() > deadline:
                raise _TimeUpError(f"{coordinator.done:.1%}")

        chronicle = Chronicle(
            *(path, experiment, ENGINE, lambda student: score(experiment, student)),
            *((watch,), way_back),
        )
        chronicle.student = parts.student
        coordinator = Coordinator(parts, list(local.cards), local.answer, chronicle)
        distilled = coordinator.finish()
        traffic = {name: traffic_of(counts) for name, counts in way_back.total().items()}
        judged = _verdict(distilled.student, vault)
        chronicle.finish(distilled, local.cards, traffic, judged)
        way_back.finish()
    finally:
        way_back.close()
    return f"done: student {judged.student:.2%}; {path / 'report.html'}"


def _verdict(student: nn.Module, vault: _AtHand) -> Verdict:
    told = vault._told
    said = vault.teacher.ask(told.test_images, frozenset({Signal.LOGITS}))[Signal.LOGITS]
    own, right = logits(student, told.test_images), accuracy(said, told.test_labels)
    names = map(str, range(told.classes))
    return Verdict(
        accuracy(own, told.test_labels),
        right,
        agreement(own, said),
        {"institution-0": right},
        dict(zip(names, recall(own, told.test_labels), strict=True)),
        fidelity=fidelity(own, said),
        fidelity_double_root=fidelity_double_root(own, said),
    )


def _begin(folder: Path, name: str, root: str | None, source: str, sets: Sequence[str]) -> None:
    """Put the experiment down that all calls will go on with."""
    overrides = [f'institutions.data="{source}"'] if source else []
    overrides += [f"institutions.root={json.dumps(root)}"] if root else []
    experiment = load(name, [*overrides, *sets])
    if experiment.institutions.count != 1:
        raise SettingsError(
            f"{experiment.institutions.count} institutions; a headline has one teacher, for more "
            "use `fedkd run`"
        )
    if lossy(experiment.institutions.data, experiment.institutions.root):
        experiment = experiment.model_copy(update={"name": f"{experiment.name} (JPEG)"})
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / EXPERIMENT, (experiment.model_dump_json(indent=2) + "\n").encode())


def lossy(name: str, root: str | None) -> bool:
    """Whether the data lie in parquet files as JPEG, and are thus not quite what was published."""
    kind, _, rest = name.partition(":")
    files = sorted(Path(root or "", rest).glob("*.parquet")) if kind == "parquet" else []
    if not files:
        return False
    from pyarrow import parquet

    row = next(parquet.ParquetFile(files[0]).iter_batches(1)).to_pylist()[0]
    cell = row.get("img") or row.get("image") or {}
    return bytes(cell.get("bytes", b"")).startswith(b"\xff\xd8\xff")


def main() -> int:
    """One call."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="of all calls")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call")
    parser.add_argument("--experiment", default="cifar10-cudfkd", help="of the first call")
    parser.add_argument("--data", default="", help="where they are not torchvision's: parquet:")
    parser.add_argument("--root", help="folder of the data")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    told = parser.parse_args()
    deadline = time.monotonic() + 60 * told.minutes
    try:
        if not (told.out / EXPERIMENT).exists():
            _begin(told.out, told.experiment, told.root, told.data, told.set)
        print(go_on(told.out, deadline))
    except FedkdError as error:
        print(f"fedkd: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
