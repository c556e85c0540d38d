"""What a finished run says of itself: result, events, gallery. Knows no file and no page.

Accuracies are in [0, 1]; None means that the coordinator does not know the value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedkd.errors import DataError

Accuracy: TypeAlias = Annotated[float, Field(ge=0, le=1)] | None
Count: TypeAlias = Annotated[int, Field(ge=0)]
Variance: TypeAlias = Annotated[float, Field(ge=0, le=0.25)] | None
"""Of shares in [0, 1]."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class StudentScore(_Part):
    """The student, as it stood after the last step."""

    accuracy: Accuracy
    best_test_accuracy: Accuracy = None
    """The best seen on the way, chosen by looking at the test set."""
    agreement: Accuracy = None
    """Share of test images on which student and ensemble name the same class."""
    fidelity: Accuracy = None
    """How alike their probabilities are, see `fedkd.evaluation.metrics.fidelity`."""
    fidelity_double_root: Accuracy = None
    """The same as the released code of CuDFKD has it."""
    scores: Count | None = None
    """Times that it was scored on the way, evenly over its steps."""
    mean_accuracy: Accuracy = None
    """Over all these scores; this and the next three as in `fedkd.evaluation.metrics.course`."""
    variance_of_accuracy: Variance = None
    mean_accuracy_last_half: Accuracy = None
    """Over the last half of them."""
    variance_of_accuracy_last_half: Variance = None
    recall: dict[str, Accuracy] | None = None
    """Share of the test images of each class that the student finds, by name of class."""


class EnsembleScore(_Part):
    """The fused answer of all institutions."""

    accuracy: Accuracy


class Promise(_Part):
    """What an institution's guarantee says beside epsilon and delta, see `fedkd.protocol.guarantee`.

    Everything may be missing: a mechanism has the figures that it has.
    """

    mechanism: str | None = None
    """``DP-SGD``."""
    unit: str | None = None
    """What is protected: ``one training image``."""
    adjacency: str | None = None
    """How neighbouring data sets differ: ``add or remove``."""
    steps: Count | None = None
    """Noisy steps."""
    noise_multiplier: float | None = None
    """Standard deviation of the noise, in units of ``clipping``."""
    sampling_rate: float | None = None
    """Chance of a unit to take part in a step."""
    clipping: float | None = None
    """Largest L2 norm of what one unit adds to a step."""
    accountant: str | None = None
    """How epsilon was computed from these."""
    unpromised: Count = 0
    """Images that were answered before without any promise, as the institution's books say."""


class TeacherRecord(_Part):
    """One institution, as the coordinator saw it."""

    name: str
    model: str
    accuracy: Accuracy
    samples_asked: Count
    samples_pulled_back: Count
    bytes_received: Count
    """By the coordinator, from this institution."""
    bytes_sent: Count
    """By the coordinator, to this institution."""
    refusals: Count
    epsilon: Annotated[float, Field(gt=0)] | None
    """None where no differential privacy is promised; 0 would claim the impossible."""
    delta: Annotated[float, Field(ge=0, lt=1)] | None
    classes: tuple[str, ...] = ()
    """What it calls its classes, ``(K,)``; empty: by their numbers."""
    class_counts: tuple[Count, ...] | None = None
    """Training images of each class, ``(K,)``, where the institution tells them."""
    mechanism: str | None = None
    """How the promise is kept and what it protects: ``DP-SGD, one training image``."""
    guarantee: Promise | None = None
    """The promise in full; None where there is none, and in records from before it was kept."""
    signals: tuple[str, ...] = ()
    """What its policy releases: ``logits``, ``bn_gap``, ``features``."""
    questions: Count = 0
    """That were put to it; 0 where nobody counted."""
    recipes: Count = 0
    """Of them, those that named their images and did not show them."""
    pull_back: bool | None = None
    """Whether it answers with gradients; this and the next two are None where not recorded."""
    tells_scores: bool | None = None
    """Whether it tells how well a student does on its private test data."""
    sample_cap: Count | None = None
    """Most samples that it answers; None also where it sets no cap."""


class OnnxParity(_Part):
    """How far ``student.onnx`` is from the student, or why there is none."""

    skipped: str | None = None
    max_difference: float | None = None
    """Largest absolute difference of a logit."""
    argmax_agreement: Accuracy = None
    """Share of random images on which both name the same class."""


class Result(_Part):
    """``result.json``: what a run came to. Further keys are kept and not read."""

    student: StudentScore
    ensemble: EnsembleScore
    teachers: tuple[TeacherRecord, ...]
    classes: tuple[str, ...] = ()
    """Names of the student's outputs, in order; empty: their numbers."""
    method: str
    signals_asked: tuple[str, ...] = ()
    """What the method asked of institutions, some of it of generated images alone."""
    engine: str
    seed: int
    student_steps: Count
    generator_steps: Count
    seconds: Annotated[float, Field(ge=0)]
    config: dict[str, Any]
    versions: dict[str, str]
    resumed: Count = 0
    """Times that the run was cut short and taken up again."""
    onnx: OnnxParity | None = None
    """What `fedkd.server.report.export.export_onnx` returned."""


class Asked(_Part):
    """A batch was put to every institution."""

    kind: Literal["asked"] = "asked"
    asked: Count
    """Samples asked of each teacher so far, this batch included."""
    origin: str
    """The prior or the source that invented the batch."""
    class_entropy: dict[str, float | None] = Field(default_factory=dict)
    """Entropy of the hard answers' classes, by origin."""
    entropy: float | None = None
    """The same over all origins."""


class Trained(_Part):
    """The student took a step."""

    kind: Literal["trained"] = "trained"
    step: Count
    asked: Count
    loss: float | None
    difficulty: float | None = None
    """Mean loss of a sample, before weights."""
    weight: float | None = None
    """Mean weight that the curriculum gave a sample."""
    pace: float | None = None
    hardness: float | None = None
    """The ramp of the adversarial term, in [0, 1]."""
    difficulty_by_institution: dict[str, float | None] | None = None


class Scored(_Part):
    """The student sat the test."""

    kind: Literal["scored"] = "scored"
    step: Count
    asked: Count
    accuracy: Accuracy


class Generated(_Part):
    """The generator took a step."""

    kind: Literal["generated"] = "generated"
    step: Count
    terms: dict[str, float | None]
    """Each term of its objective; all are minimised."""


class Weighed(_Part):
    """The weights of institutions were learned anew."""

    kind: Literal["weighed"] = "weighed"
    weights: dict[str, float]
    """By institution, in [0, 1]."""


class Lost(_Part):
    """An institution went away and the run went on."""

    kind: Literal["lost"] = "lost"
    name: str
    reason: str


class Back(_Part):
    """An institution that was lost answered again."""

    kind: Literal["back"] = "back"
    name: str


class Joined(_Part):
    """An institution came while the run went on, and takes part from here."""

    kind: Literal["joined"] = "joined"
    name: str


class Struck(_Part):
    """An institution broke the law of its session and may not come back in this run."""

    kind: Literal["struck"] = "struck"
    name: str
    reason: str


class Warned(_Part):
    """Something went wrong that the run can do without."""

    kind: Literal["warned"] = "warned"
    text: str


Event: TypeAlias = Annotated[
    Asked | Trained | Scored | Generated | Weighed | Lost | Back | Joined | Struck | Warned,
    Field(discriminator="kind"),
]

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


@dataclass(frozen=True, eq=False)
class Gallery:
    """A few dozen invented images, from all along the run.

    Raises:
        DataError: the arrays do not fit one another.
    """

    images: NDArray[np.uint8]
    """``(n, C, H, W)``."""
    origin: NDArray[np.str_]
    """``(n,)``, the prior or the source."""
    asked_at: NDArray[np.int64]
    """``(n,)``, samples asked of each teacher when the image was asked about."""
    label: NDArray[np.int64]
    """``(n,)``, the class of the fused answer."""
    confidence: NDArray[np.float32]
    """``(n,)``, the fused answer's probability of that class, in [0, 1]."""

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(
                f"gallery images are {self.images.dtype} {self.images.shape}; "
                "expected uint8 (n, C, H, W)"
            )
        expected = (len(self.images),)
        for name in ("origin", "asked_at", "label", "confidence"):
            if (shape := getattr(self, name).shape) != expected:
                raise DataError(f"gallery {name} has shape {shape}; expected {expected}")


@dataclass(frozen=True, eq=False)
class Record:
    """All that a run's folder says."""

    name: str
    """Of the folder."""
    result: Result
    events: tuple[Event, ...] = ()
    gallery: Gallery | None = None
    files: Mapping[str, int] | None = None
    """Size in bytes of each file that the run left, by name."""


def read_result(value: object, where: str) -> Result:
    """Check ``value`` against the contract; `DataError` names ``where`` and the first fault."""
    try:
        return Result.model_validate(value)
    except ValidationError as error:
        raise DataError(f"{where}: {_first_fault(error)}") from None


def read_event(value: object, where: str) -> Event:
    """Check one event against the contract; `DataError` names ``where`` and the first fault."""
    try:
        return _EVENT.validate_python(value)
    except ValidationError as error:
        raise DataError(f"{where}: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in fault["loc"]) or "the whole"
    came = " ".join(repr(fault["input"]).split())
    return f"{place}: {fault['msg']}; came {came[:60]}"
