"""Schemas of a run's stored results: ``result.json`` and the events.

Accuracies are in [0, 1]; None means that the coordinator does not know the value.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from fedkd.errors import DataError
from fedkd.server.report.records.result_parts import (
    Accuracy,
    Count,
    Distance,
    EnsembleScore,
    EstimatorRecord,
    GrownScores,
    GrowthRecord,
    GuaranteeRecord,
    HeldBackScore,
    OnnxParity,
    RelationScores,
    ResultModel,
    Seconds,
    TaskScores,
    Variance,
)


class StudentScore(TaskScores):
    """Scores of the student after its last step."""

    best_test_accuracy: Accuracy = None
    """The best during training, selected on the test set."""
    agreement: Accuracy = None
    """Share of test samples on which student and ensemble predict the same class, of all tasks."""
    task_agreement: dict[str, Accuracy] | None = None
    """The same of each of several tasks."""
    r2_to_ensemble: float | None = None
    """Of numbers: R^2 of the student to the ensemble on the test samples."""
    rmse_to_ensemble: Distance = None
    mae_to_ensemble: Distance = None
    fidelity: Accuracy = None
    """Similarity of their probabilities, see `fedkd.evaluation.metrics.fidelity`."""
    fidelity_double_root: Accuracy = None
    """The same, as computed by the released code of CuDFKD."""
    scores: Count | None = None
    """Number of times that it was scored during training, evenly over its steps."""
    mean_accuracy: Accuracy = None
    """Over all these scores; for this and the next three see `training_stability` there."""
    variance_of_accuracy: Variance = None
    mean_accuracy_last_half: Accuracy = None
    """Over the last half of them."""
    variance_of_accuracy_last_half: Variance = None
    recall: dict[str, Accuracy] | None = None
    """Recall of each class on the test images, by name of class."""
    questions_to_95: Count | None = None
    """Samples asked of each institution until it was first scored at 95 % of its final main score,
    see `fedkd.evaluation.time_to_score`; None without test data."""
    seconds_to_95: Seconds = None
    """Of ``seconds`` of the run, until then."""
    held_back: HeldBackScore | None = None
    """On samples it never learned from; None: none was held back."""


class TeacherRecord(TaskScores):
    """One institution and its teacher, as known to the coordinator."""

    name: str
    model: str
    samples_asked: Count
    samples_pulled_back: Count
    bytes_received: Count
    """By the coordinator, from this institution."""
    bytes_sent: Count
    """By the coordinator, to this institution."""
    refusals: Count
    epsilon: Annotated[float, Field(gt=0)] | None
    """None without a differential privacy guarantee."""
    delta: Annotated[float, Field(ge=0, lt=1)] | None
    classes: tuple[str, ...] = ()
    """Its names of its classes, ``(K,)``; empty: their numbers."""
    class_counts: tuple[Count, ...] | None = None
    """Training images of each class, ``(K,)``, if its policy releases them."""
    number_errors: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """By number, its root mean squared error in the unit, where its owner tells it."""
    mechanism: str | None = None
    """Mechanism of the guarantee and unit of privacy: ``DP-SGD, one training image``."""
    guarantee: GuaranteeRecord | None = None
    """The whole guarantee; None without one, and in results of earlier releases."""
    signals: tuple[str, ...] = ()
    """What its policy releases, by name of `fedkd.protocol.Signal`."""
    questions: Count = 0
    """Sent to it; 0 if not counted."""
    recipes: Count = 0
    """Of them, those sent with a recipe in place of the samples."""
    answer_seconds_median: Annotated[float, Field(ge=0)] | None = None
    """From a question to its answer or refusal, to a tenth; None if not measured."""
    answer_seconds_p90: Annotated[float, Field(ge=0)] | None = None
    """Nine of ten answers came within these."""
    pull_back: bool | None = None
    """Whether its policy allows gradients; this and the next two are None if not recorded."""
    tells_scores: bool | None = None
    """Whether its policy releases scores of a student on its private test data."""
    sample_cap: Count | None = None
    """Limit of samples that it answers; None also without a limit."""


class Result(ResultModel):
    """``result.json``. Further keys are kept and not read."""

    student: StudentScore
    ensemble: EnsembleScore
    teachers: tuple[TeacherRecord, ...]
    classes: tuple[str, ...] = ()
    """Names of the student's outputs, in order; empty: their numbers."""
    domain: dict[str, Any] = Field(default_factory=lambda: {"kind": "images"})
    """What a sample is: images, or a table with its columns."""
    task: dict[str, Any] = Field(default_factory=lambda: {"kind": "classes"})
    """What is predicted: classes, numbers with units and ranges, or several tasks with classes."""
    growth: GrowthRecord | None = None
    method: str
    signals_asked: tuple[str, ...] = ()
    """Signals that the method asked for, some of them only for generated samples."""
    engine: str
    seed: int
    student_steps: Count
    generator_steps: Count
    seconds: Annotated[float, Field(ge=0)]
    config: dict[str, Any]
    versions: dict[str, str]
    resumed: Count = 0
    """Number of times that the run was resumed."""
    questions_saved: Count | None = None
    """Samples of the budget that ``questions.stop`` left unasked; None: it was not set."""
    warnings: tuple[str, ...] = ()
    """What a reader of the scores has to know, for people."""
    relations: RelationScores | None = None
    estimator: EstimatorRecord | None = None
    """The deployable estimator beside the network; None: none was asked for."""
    onnx: OnnxParity | None = None


class _EventModel(ResultModel):
    time: float | None = None
    """Seconds since 1970 when it was written; None in files of earlier releases."""


class Started(_EventModel):
    """The institutions are known, and the first question is about to be put."""

    kind: Literal["started"] = "started"
    result: dict[str, Any]
    """A `Result` without scores, traffic and steps: all that is known at the start."""


class Asked(_EventModel):
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


class Trained(_EventModel):
    """The student took a step."""

    kind: Literal["trained"] = "trained"
    step: Count
    asked: Count
    loss: float | None
    difficulty: float | None = None
    """Mean loss of a sample, before weights."""
    weight: float | None = None
    """Mean weight that the curriculum gave a sample."""
    curriculum_lambda: float | None = Field(
        None, validation_alias=AliasChoices("curriculum_lambda", "pace")
    )
    """Of the self-paced curriculum, in units of the loss; ``pace`` in files of earlier releases."""
    difficulty_by_institution: dict[str, float | None] | None = None


class Scored(GrownScores, _EventModel):
    """The student was evaluated on test data."""

    kind: Literal["scored"] = "scored"
    step: Count
    asked: Count
    seconds: Seconds = None
    """Of the run so far, earlier processes included; None in files of earlier releases."""
    accuracy: Accuracy = None
    all_tasks_accuracy: Accuracy = None
    r2: float | None = None
    recall_at_1: Accuracy = None


class HeldBack(HeldBackScore, _EventModel):
    """The student was evaluated on the latest samples that were held back from it."""

    kind: Literal["held_back"] = "held_back"
    step: Count
    asked: Count


class Stopped(_EventModel):
    """No more is asked after the question that is under way, see `questions.stop`."""

    kind: Literal["stopped"] = "stopped"
    step: Count
    asked: Count


class Generated(_EventModel):
    """The generator took a step."""

    kind: Literal["generated"] = "generated"
    step: Count
    terms: dict[str, float | None]
    """Each term of its objective; all are minimised."""
    weights: dict[str, float] = Field(default_factory=dict)
    """The weight that each term had in this step; absent from files of earlier releases."""


class Reweighted(_EventModel):
    """The learned ensemble weights of the institutions were updated."""

    kind: Literal["weighed"] = "weighed"
    weights: dict[str, float]
    """By institution, in [0, 1]."""


class Reliability(_EventModel):
    """The reliability of institutions was estimated from their answers."""

    kind: Literal["reliability"] = "reliability"
    samples: Count
    """Samples asked of each teacher so far."""
    agreement: dict[str, float | None]
    """By institution, the correlation with the others, in [-1, 1]; None: too little in common."""
    weight: dict[str, float]
    """By institution, the share of its classes that is fused, in [0, 1]."""
    left_out: dict[str, list[str]] = Field(default_factory=dict)
    """By institution, the classes on which its answers are left out; absent: none."""


class Lost(_EventModel):
    """An institution did not answer a question, and the run went on."""

    kind: Literal["lost"] = "lost"
    name: str
    reason: str


class Returned(_EventModel):
    """An institution that was lost answered again."""

    kind: Literal["returned"] = "returned"
    name: str


class Joined(_EventModel):
    """An institution joined while the run went on."""

    kind: Literal["joined"] = "joined"
    name: str


class Banned(_EventModel):
    """An institution violated the protocol and is refused for the rest of the run."""

    kind: Literal["banned"] = "banned"
    name: str
    reason: str


class Excluded(_EventModel):
    """The operator excluded an institution: it is refused, and its answers are fused out."""

    kind: Literal["excluded"] = "excluded"
    name: str
    reason: str


class Warned(_EventModel):
    """An error that does not stop the run."""

    kind: Literal["warned"] = "warned"
    text: str


Event: TypeAlias = Annotated[
    Started
    | Asked
    | Trained
    | Scored
    | HeldBack
    | Stopped
    | Generated
    | Reweighted
    | Reliability
    | Lost
    | Returned
    | Joined
    | Banned
    | Excluded
    | Warned,
    Field(discriminator="kind"),
]

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)

_OLD_KINDS = {"struck": "banned", "back": "returned"}
"""Kinds of events in files of earlier releases, and their names now."""


def parse_result(value: object, where: str) -> Result:
    """Validate a result; `DataError` names ``where`` and the first error."""
    try:
        return Result.model_validate(value)
    except ValidationError as error:
        raise DataError(f"{where}: {_first_error(error)}") from None


def parse_event(value: object, where: str) -> Event:
    """Validate an event; `DataError` names ``where`` and the first error."""
    if isinstance(value, Mapping) and value.get("kind") in _OLD_KINDS:
        value = {**value, "kind": current_kind(value["kind"])}
    try:
        return _EVENT.validate_python(value)
    except ValidationError as error:
        raise DataError(f"{where}: {_first_error(error)}") from None


def current_kind(kind: str) -> str:
    """The name of a kind of event, given that or its name in earlier releases."""
    return _OLD_KINDS.get(kind, kind)


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the whole"
    value = " ".join(repr(first["input"]).split())
    return f"{place}: {first['msg']}; got {value[:60]}"
