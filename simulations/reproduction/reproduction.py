"""Reproduce one paper in its own regime: train the teacher once, run, resume, compare figures.

A run's folder holds ``regime.json``, what the first call was given; ``state.safetensors``, from
which a later call resumes; and ``result.json`` at its end. Teachers lie beside it and are shared.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from fedkd.core.augmentation import Augmentation
from fedkd.core.checkpoint_state import State, gather, read, scatter, write
from fedkd.core.device import Compute
from fedkd.data.dataset import Dataset
from fedkd.data.datasets import open_data
from fedkd.errors import SettingsError
from fedkd.evaluation import accuracy, predict_logits
from fedkd.methods import make
from fedkd.models import ModuleTeacher
from fedkd.protocol import Card
from fedkd.server.report.records.run_folder import RESULT, atomic_path, write_atomic
from fedkd.simulations.reproduction.cudfkd_cifar10 import is_jpeg
from fedkd.simulations.reproduction.direct_training import DirectTraining
from fedkd.simulations.reproduction.paper_networks import padded, paper_network
from fedkd.simulations.reproduction.question_training import QuestionTraining
from fedkd.simulations.reproduction.regime import Regime, load_regime
from fedkd.simulations.reproduction.teacher_training import TeacherSettings, train_until

REGIME, STATE, TEACHERS = "regime.json", "state.safetensors", ".teachers"
CHECKPOINT_INTERVAL = 60.0
"""Seconds between saved states."""
SCORES = 40
"""How often the student is scored on the way."""
TRAINING_IMAGES = 10_000
"""Training images that networks are scored on in the place of test images."""
Percent = float


@dataclass
class _Run:
    """One run: what it is made of, and what it has come to."""

    regime: Regime
    seed: int
    path: Path
    training: DirectTraining | QuestionTraining
    data: Dataset
    seconds: float = 0.0
    """Of all calls, the teacher's training left out."""
    cpu_seconds: float = 0.0
    curve: list[tuple[int, int, Percent]] = field(default_factory=list)
    """(rounds, samples, student's accuracy)."""

    def save(self) -> None:
        """Store where it stands."""
        own = {"seconds": self.seconds, "cpu_seconds": self.cpu_seconds, "curve": self.curve}
        state = gather({"training": self.training}, own)
        with atomic_path(self.path / STATE) as file:
            write(State(state.tensors, state.numbers), file)

    def resume(self) -> None:
        """Stand where the last call has stored it, if one has."""
        if not (self.path / STATE).exists():
            return
        own = scatter(read(self.path / STATE), {"training": self.training})
        self.seconds, self.cpu_seconds = own["seconds"], own["cpu_seconds"]
        self.curve = [(int(r), int(s), float(a)) for r, s, a in own["curve"]]

    def score(self) -> Percent:
        """The student's accuracy, noted in the curve."""
        found = score_of(self.training.student, self.data)
        self.curve.append((self.training.rounds, self.training.samples, found))
        return found

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add up the seconds within."""
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self.seconds += time.monotonic() - wall
        self.cpu_seconds += time.process_time() - cpu


def reproduce(
    name: str,
    seed: int = 0,
    out: Path | None = None,
    overrides: Iterable[str] = (),
    console: Console | None = None,
) -> dict[str, Any]:
    """Run a regime to its end, from where an earlier call left it; returns ``result.json``.

    Args:
        name: of a regime, or its .toml file.
        seed: of everything random, the teacher's training included.
        out: folder of the run; None: ``runs/reproduce-NAME-SEED``.
        overrides: ``section.key=value``.
        console: shows the bar; None: a new one.

    Raises:
        FedkdError: whatever went wrong, in one line.
    """
    regime = load_regime(name, overrides)
    path = out or Path("runs") / f"reproduce-{Path(name).stem}-{seed}"
    _check_folder(path, regime, seed)
    if (path / RESULT).exists():
        found: dict[str, Any] = json.loads((path / RESULT).read_text())
        return found
    torch.set_num_threads(regime.threads)
    compute = Compute.of(regime.device, regime.precision)
    data = _open(regime)
    with _bars(console) as bars:
        teacher = _teacher(regime, data, seed, path.resolve().parent / TEACHERS, bars)
        run = _begin(regime, seed, path, data, teacher, compute)
        _advance(run, bars)
    result = _result(run, score_of(teacher, data))
    write_result(result, path / RESULT)
    return result


def write_result(result: dict[str, Any], path: Path) -> None:
    """Write a result to a JSON file, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(result, indent=2) + "\n").encode())


def score_of(network: nn.Module, data: Dataset) -> Percent:
    """Accuracy on the test images, or what stands in their place."""
    return round(100 * accuracy(predict_logits(network, data.test_images), data.test_labels), 2)


def _open(regime: Regime) -> Dataset:
    """The data, with the images that networks are scored on as test images."""
    data = padded(open_data(regime.data.name, regime.data.root), regime.data.side)
    if regime.data.scored == "test":
        return data
    scored = slice(0, TRAINING_IMAGES)
    images, labels = data.train_images[scored], data.train_labels[scored]
    return replace(data, test_images=images, test_labels=labels)


def _check_folder(path: Path, regime: Regime, seed: int) -> None:
    """Store what the first call was given, or check that this one was given the same."""
    given = json.dumps({"seed": seed, **regime.model_dump(mode="json")}, indent=2) + "\n"
    file = path / REGIME
    if not file.exists():
        path.mkdir(parents=True, exist_ok=True)
        write_atomic(file, given.encode())
    elif file.read_text() != given:
        raise SettingsError(
            f"{path} holds a run with other settings, see {REGIME}; give another --out, or the "
            "settings of its first call"
        )


def _teacher(regime: Regime, data: Dataset, seed: int, folder: Path, bars: Progress) -> nn.Module:
    """The teacher, trained or from ``folder``; in float32, so that regimes can share it."""
    how, compute = regime.teacher, Compute.of(regime.device, "float32")
    network = paper_network(how.model, data, regime.data, seed)
    settings = TeacherSettings(
        *(how.epochs, how.batch, how.learning_rate), Augmentation(how.shift, how.mirrors)
    )
    told = [
        regime.data.model_dump_json(exclude={"root", "scored"}),
        how.model_dump_json(),
        str(seed),
    ]
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    bar = bars.add_task("teacher", total=1.0)
    trained, _ = train_until(
        *(network, data, settings, compute, folder / f"{digest}.safetensors", float("inf"), seed),
        progress=lambda share: bars.update(bar, completed=share),
    )
    bars.update(bar, completed=1.0)
    return trained


def _begin(
    regime: Regime, seed: int, path: Path, data: Dataset, teacher: nn.Module, compute: Compute
) -> _Run:
    """The run, as new or where it was left."""
    asked = ModuleTeacher(teacher, data.classes)
    card = Card("teacher", data.classes, data.shape, asked.signals, pull_back=True)
    method = make(regime.method, regime.arguments).for_cards([card])
    student = paper_network(regime.student.model, data, regime.data, seed + 1)
    training = (
        DirectTraining(regime, method, asked, student, data.shape, seed, compute)
        if regime.questions is None
        else QuestionTraining(
            regime, regime.questions, method, asked, student, data.shape, seed, compute
        )
    )
    run = _Run(regime, seed, path, training, data)
    run.resume()
    return run


def _advance(run: _Run, bars: Progress) -> None:
    """All rounds that are left."""
    training, total = run.training, run.training.plan.budget
    bar = bars.add_task("rounds", total=total, completed=training.rounds)
    every, saved_at = max(1, total // SCORES), time.monotonic()
    while not training.done:
        with run.timed():
            training.round()
        if training.rounds % every == 0:
            bars.update(bar, description=f"student {run.score():.1f} %")
        bars.update(bar, completed=training.rounds)
        if time.monotonic() - saved_at > CHECKPOINT_INTERVAL:
            run.save()
            saved_at = time.monotonic()
    run.save()


def _result(run: _Run, teacher: Percent) -> dict[str, Any]:
    regime, training = run.regime, run.training
    figure = score_of(training.student, run.data)
    return {
        "method": regime.method,
        "figure": figure,
        "published": regime.published,
        "published_of": regime.published_of,
        "teacher": teacher,
        "samples": training.samples,
        "seconds": round(run.seconds, 1),
        "cpu_seconds": round(run.cpu_seconds, 1),
        "seed": run.seed,
        "best": max((figure, *(score for _, _, score in run.curve))),
        "rounds": training.rounds,
        "rounds_of_paper": regime.rounds,
        "networks": f"{regime.teacher.model} to {regime.student.model}",
        "data": regime.data.name + (" (JPEG)" if is_jpeg(*_source(regime)) else ""),
        "scored": regime.data.scored,
        "differs": list(regime.differs),
        "curve": [list(row) for row in run.curve],
    }


def _source(regime: Regime) -> tuple[str, str | None]:
    return regime.data.name, regime.data.root


@contextmanager
def _bars(console: Console | None) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console) as bars:
        yield bars


def lines_of(result: dict[str, Any]) -> Iterator[str]:
    """The result in words, line by line."""
    published = result["published"]
    rounds, total = result["rounds"], result["rounds_of_paper"]
    yield f"{result['method']}: {result['networks']}, {result['data']}, seed {result['seed']}"
    best = f"last student, {result['scored']} images; best on the way {result['best']}"
    yield f"  our figure   {result['figure']:.2f} % ({best})"
    yield (
        f"  the paper's  {published:.2f} % ({result['published_of']})"
        if published is not None
        else "  the paper's  none for these data"
    )
    yield f"  teacher      {result['teacher']:.2f} %"
    yield f"  samples      {result['samples']:,} that the teacher answered"
    yield f"  rounds       {rounds:,} of the paper's {total:,} ({rounds / total:.1%})"
    yield f"  seconds      {result['seconds']:.0f} ({result['cpu_seconds']:.0f} of CPU time)"
    for each in result["differs"]:
        yield f"  differs      {each}"
