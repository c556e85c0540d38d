"""Schema of a run's events, the lines of ``events.jsonl``.

Accuracies are in [0, 1]; None means that the coordinator does not know the value.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from fedkd.errors import DataError
from fedkd.server.report.records.result_parts import (
    Accuracy,
    Count,
    GrownScores,
    HeldBackScore,
    ResultModel,
    Seconds,
    first_error,
)


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
    public: dict[str, Count] | None = None
    """Public samples asked about so far, by data set; None without a choice among several."""
    public_pool: dict[str, Count] | None = None
    """How many of each the coordinator had."""


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


def parse_event(value: object, where: str) -> Event:
    """Validate an event; `DataError` names ``where`` and the first error."""
    if isinstance(value, Mapping) and value.get("kind") in _OLD_KINDS:
        value = {**value, "kind": current_kind(value["kind"])}
    try:
        return _EVENT.validate_python(value)
    except ValidationError as error:
        raise DataError(f"{where}: {first_error(error)}") from None


def current_kind(kind: str) -> str:
    """The name of a kind of event, given that or its name in earlier releases."""
    return _OLD_KINDS.get(kind, kind)
