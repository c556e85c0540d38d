"""Schema of a run's ``result.json``.

Accuracies are in [0, 1]; None means that the coordinator does not know the value.
"""

from typing import Annotated, Any

from pydantic import Field, ValidationError

from fedkd.errors import DataError
from fedkd.server.report.records.result_parts import (
    Accuracy,
    Count,
    Distance,
    EnsembleScore,
    EstimatorRecord,
    GrowthRecord,
    GuaranteeRecord,
    HeldBackScore,
    OnnxParity,
    RelationScores,
    ResultModel,
    Seconds,
    TaskScores,
    Variance,
    first_error,
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
    method_title: str = ""
    """What readers are told that ran; empty: the method's name."""
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


def parse_result(value: object, where: str) -> Result:
    """Validate a result; `DataError` names ``where`` and the first error."""
    try:
        return Result.model_validate(value)
    except ValidationError as error:
        raise DataError(f"{where}: {first_error(error)}") from None
