"""Parts of the schema of ``result.json``: types, scores, guarantee, exported estimator and ONNX.

Accuracies are in [0, 1]; None means that the coordinator does not know the value.
"""

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Accuracy: TypeAlias = Annotated[float, Field(ge=0, le=1)] | None
Distance: TypeAlias = Annotated[float, Field(ge=0)] | None
Count: TypeAlias = Annotated[int, Field(ge=0)]
Seconds: TypeAlias = Annotated[float, Field(ge=0)] | None
Variance: TypeAlias = Annotated[float, Field(ge=0, le=0.25)] | None
"""Of shares in [0, 1]."""


RelationScores: TypeAlias = dict[str, dict[str, dict[str, float | None]]]
"""Of embeddings in a simulation: ``controls`` and their recall, and ``groups`` of each relation
matrix: how far they are right, and the same as those of the mean."""


class ResultModel(BaseModel):
    """Further keys are kept, numbers are finite."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class TaskScores(ResultModel):
    """Scores on test data; None where unknown, or where they mean nothing for the task."""

    accuracy: Accuracy = None
    balanced_accuracy: Accuracy = None
    """Mean recall of the classes."""
    auroc: Accuracy = None
    """Area under the ROC curve, of more than two classes the mean of each against the rest."""
    ece: Accuracy = None
    """Expected calibration error."""
    r2: float | None = None
    """Coefficient of determination, the mean over numbers."""
    rmse: Distance = None
    """Root mean squared error of a single number, in its unit."""
    mae: Distance = None
    """Mean absolute error likewise."""
    all_tasks_accuracy: Accuracy = None
    """Of several tasks: the share of samples of which all are right."""
    task_accuracy: dict[str, Accuracy] | None = None
    """Accuracy of each task, by its name; ``accuracy`` is their mean."""
    mean_return: float | None = None
    """Of a policy: the mean return of its episodes."""
    recall_at_1: Accuracy = None
    """Of an embedding: share of queries whose most alike sample of the gallery has their class."""
    recall_at_5: Accuracy = None
    """Share with one such among the five most alike."""
    relation_correlation: float | None = None
    """Correlation of the student's relations with the mean of the institutions'."""


class EnsembleScore(TaskScores):
    """Scores of the fused answer of all institutions."""

    prior: tuple[float, ...] | None = None
    """(K,) class prior that it was given, see `fedkd.aggregation.logit_adjustment`; None: as the
    teachers were trained."""


class HeldBackScore(ResultModel):
    """Scores of the student on samples it never learned from, against their fused answers.

    They need no data: they tell how well the student follows the institutions on synthetic samples.
    """

    count: Count
    """Samples."""
    agreement: Accuracy = None
    """Share on which the student decides as the fused answer does, in all tasks."""
    task_agreement: dict[str, Accuracy] | None = None
    """The same of each of several tasks."""
    kl: Distance = None
    """Mean KL(fused || student), in nats."""
    fidelity: Accuracy = None
    """Similarity of their probabilities, see `fedkd.evaluation.metrics.fidelity`."""
    ece: Accuracy = None
    """Expected calibration error; the fused probability of its class stands for the truth."""
    r2: float | None = None
    """Of numbers: R^2 to the fused numbers."""
    rmse_of_range: Distance = None
    """Of numbers: root mean squared error, as a share of their ranges."""
    rmse: Distance = None
    """Of a single number, in its unit."""
    mae: Distance = None
    relation_correlation: float | None = None
    """Of embeddings: correlation of relations with the mean of the institutions'."""
    relation_error: Distance = None
    """Root mean squared difference of relations."""


class GuaranteeRecord(ResultModel):
    """A differential privacy guarantee beside epsilon and delta, see `fedkd.protocol.guarantee`.

    Every field may be missing, since mechanisms have different parameters.
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
    """Probability that a unit takes part in a step."""
    clipping: float | None = None
    """Clipping norm: largest L2 norm of one unit's gradient."""
    accountant: str | None = None
    """Name of the accountant that computed epsilon."""
    unpromised: Count = 0
    """Samples answered before without any guarantee, according to the institution's ledger."""


class OnnxParity(ResultModel):
    """Comparison of ``student.onnx`` with the student, or why there is no such file."""

    skipped: str | None = None
    max_difference: float | None = None
    """Largest absolute difference of a logit."""
    argmax_agreement: Accuracy = None
    """Share of random images on which both predict the same class."""


class EstimatorParity(ResultModel):
    """Comparison of a file of an estimator with it, or why there is no such file."""

    skipped: str | None = None
    max_difference: Distance = None
    """Largest difference of a prediction: in probability, or as a share of the number's range."""
    rows: Count | None = None
    failed: bool = False
    """Whether it was too large; there is no such file then."""


class EstimatorRecord(TaskScores):
    """A deployable estimator that was trained on the bank at the end."""

    kind: str
    agreement: Accuracy = None
    """Share of test rows on which estimator and ensemble predict the same class."""
    r2_to_ensemble: float | None = None
    rmse_to_ensemble: Distance = None
    mae_to_ensemble: Distance = None
    skops: EstimatorParity
    onnx: EstimatorParity


class AbsentInstitution(ResultModel):
    """An institution of an earlier run that takes no part in the grown one."""

    name: str
    samples_asked: Count
    """In the grown run: nothing."""
    questions: Count = 0


class GrownScores(ResultModel):
    """Accuracies of a grown student, among all of its classes; None of any other student."""

    old_accuracy: Accuracy = None
    """On test samples of the earlier student's classes."""
    new_accuracy: Accuracy = None
    """On test samples of new classes."""


class GrowthRecord(GrownScores):
    """The earlier run whose student went on, and how the grown student does on its classes."""

    run: str
    """Name of its folder."""
    student: str
    """Digest of its student's file."""
    method: str
    """Of the earlier run."""
    classes: tuple[str, ...]
    """Of the earlier student."""
    new_classes: tuple[str, ...]
    """That the institutions of this run bring."""
    weights_copied: bool
    """Whether the student began with the earlier one's weights; else its network is another."""
    left: tuple[AbsentInstitution, ...]
    earlier_accuracy: Accuracy = None
    """Of the earlier student on test samples of its classes."""


def first_error(error: ValidationError) -> str:
    """Where and what the first error of a validation is, and the value that it found."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the whole"
    value = " ".join(repr(first["input"]).split())
    return f"{place}: {first['msg']}; got {value[:60]}"
