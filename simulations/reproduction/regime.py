"""Regimes: a paper's own training schedule as data, one TOML file for each method.

A regime says which networks and data a paper used, how many steps its generator and student take
in a round, on how many images, by which optimisers, and what was published. `FOLDER` has ours.
"""

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from fedkd.core.device import Precision
from fedkd.errors import SettingsError
from fedkd.experiment.toml_settings import Section, did_you_mean, read_toml, validate_settings

FOLDER = Path(__file__).with_name("regimes")
Count: TypeAlias = Annotated[int, Field(ge=1)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Unit: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class DataSettings(Section):
    """The data set of teacher and test, and how it is normalised.

    Attributes:
        name: as `fedkd.data.datasets.open_data` takes it.
        root: folder that contains it.
        side: images are padded with black to so many pixels; None: they stay.
        mean: of the training images in [0, 1], one for each channel.
        deviation: likewise.
        scored: images on which networks are scored: "test"; "training", the first 10,000 training
            images, by which settings can be chosen without the test images. No student sees
            either; the teacher is trained on the latter.
    """

    name: str
    root: str | None = None
    side: Count | None = None
    mean: tuple[float, ...]
    deviation: tuple[Positive, ...]
    scored: Literal["test", "training"] = "test"


class TeacherSection(Section):
    """The teacher, trained once by SGD with momentum and a cosine, and cached.

    Attributes:
        shift: most pixels by which a training image is shifted. The public code of DAFL and RDSKD
            shifts none on MNIST, and up to four on CIFAR-10; regimes of papers that have CIFAR-10
            alone shift here too.
        mirrors: whether training images are mirrored at random.
    """

    model: str
    epochs: Count = 15
    batch: Count = 128
    learning_rate: Positive = 0.05
    shift: Annotated[int, Field(ge=0)] = 0
    mirrors: bool = False


class GeneratorSection(Section):
    """The generator's part of a round.

    Attributes:
        steps: of it in a round; for a batch that is trained for several steps, those.
        batch: images in a step.
        width: channels of the network, where the method has one.
        output: "sigmoid", or "standardised" for the batch norm without weights that ends the
            generators of DAFL and its successors.
    """

    steps: Count = 1
    batch: Count
    width: Count = 32
    output: Literal["sigmoid", "standardised"] = "sigmoid"


class QuestionsSection(Section):
    """Images of priors that are asked about once, where no generator is trained with the teacher.

    Attributes:
        priors: names, see `fedkd.procedural.PRIORS`.
        warp: share of their images that is warped.
        mix: share of them that is cut-mixed.
        share: of the rounds, in which a batch of ``generator.batch`` is asked about; the student
            learns in the others.
    """

    priors: tuple[str, ...]
    warp: Unit = 0.0
    mix: Unit = 0.0
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class StudentSection(Section):
    """The student's part of a round.

    Attributes:
        model: a key of `fedkd.models.MODELS`.
        steps: in a round.
        begins: share of the rounds before its first step, where the paper has all images first.
        batch: images in a step.
        images: "fresh", drawn anew for each step; "same", those of the last generator step;
            "kept", drawn from the best of all batches so far.
        drawn_in: mode of the generator's batch norm while it draws fresh images.
        optimiser: "sgd" or "adam".
        learning_rate: at the first step.
        momentum: of SGD.
        weight_decay: of either.
        schedule: of the learning rate: "constant"; "cosine" to zero; "drops" to ``drop`` of it
            after each share of the steps in ``drops``.
        drops: shares of the student's steps.
        drop: factor.
    """

    model: str
    steps: Count
    begins: Annotated[float, Field(ge=0, lt=1)] = 0.0
    batch: Count
    images: Literal["fresh", "same", "kept"] = "fresh"
    drawn_in: Literal["training", "evaluation"] = "evaluation"
    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "drops"] = "constant"
    drops: tuple[Unit, ...] = ()
    drop: Unit = 0.1

    def rate(self, steps: int) -> Callable[[int], float]:
        """The learning rate in each step of ``steps``."""
        return lambda step: (
            self.learning_rate * SCHEDULES[self.schedule](self, step / max(1, steps))
        )


SCHEDULES: Mapping[str, Callable[[StudentSection, float], float]] = {
    "constant": lambda student, done: 1.0,
    "cosine": lambda student, done: 0.5 + 0.5 * math.cos(math.pi * done),
    "drops": lambda student, done: student.drop ** sum(done >= at for at in student.drops),
}
"""(settings, share of the steps that is done) -> factor of the learning rate."""


class Regime(Section):
    """How a paper trained.

    Attributes:
        method: a key of `fedkd.methods.METHODS`.
        rounds: in the paper.
        share: of them that is run; schedules are shortened with it.
        published: the paper's accuracy in percent; None: it has none for these data.
        published_of: what that figure is of, and where it stands.
        differs: what is not as in the paper, a sentence each.
        arguments: of the method's factory.
        questions: of a method that is taught by questions; None: generator and student take turns.
        device: of all networks, as ``student.device`` of an experiment.
        precision: of convolutions of generator and student, likewise.
        threads: of torch.
    """

    method: str
    rounds: Count
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    published: float | None = None
    published_of: str = ""
    differs: tuple[str, ...] = ()
    arguments: dict[str, Any] = Field(default_factory=dict)
    data: DataSettings
    teacher: TeacherSection
    generator: GeneratorSection
    student: StudentSection
    questions: QuestionsSection | None = None
    device: str = "auto"
    precision: Precision = "auto"
    threads: Count = 1

    @property
    def rounds_run(self) -> int:
        """Rounds of this run, >= 1."""
        return max(1, round(self.rounds * self.share))


def known_regimes() -> tuple[str, ...]:
    """Names of the regimes that ship with fedkd."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load_regime(name: str, overrides: Iterable[str] = ()) -> Regime:
    """The regime of that name, or in that .toml file, with overrides ``section.key=value``.

    Raises:
        SettingsError: there is none, an unknown key, or a value out of range.
    """
    known = known_regimes()
    if name not in known and not name.endswith(".toml"):
        raise SettingsError(
            f"no regime of {name!r}{did_you_mean(name, known)}; choose one of {', '.join(known)}, "
            "or give a .toml file"
        )
    values = read_toml(FOLDER / f"{name}.toml" if name in known else Path(name))
    for override in overrides:
        _set(values, override)
    return validate_settings(Regime, values)


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {override}: expected section.key=value")
    *path, last = key.split(".")
    table = values
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise SettingsError(f"--set {override}: {part} is not a section")
    try:
        table[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = text
