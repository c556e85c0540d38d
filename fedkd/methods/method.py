"""A method as a value: sources of samples, the student's loss and curriculum, aggregation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import NamedTuple

from fedkd.aggregation.embedding_fusion import ROWS, as_outputs
from fedkd.aggregation.fusion_rule_spec import ByRule
from fedkd.core.earlier_student import EarlierStudent, slices_of
from fedkd.core.interfaces import AggregationSpec, Selection, SourceSpec, Spec, StudentPart
from fedkd.core.schedules import Schedule, constant, expect_weights
from fedkd.core.source_types import ANYTHING, EMBEDDINGS, Needs
from fedkd.core.task import Loss
from fedkd.errors import NeedsError, SettingsError
from fedkd.losses import PerSlice, l1_centred
from fedkd.protocol import WHOLE_BATCH, Answers, Card, LabelSpaces, Signal
from fedkd.student.self_paced_curriculum import UNIFORM, Curriculum
from fedkd.synthesis import NONE, Gradient, ProceduralPriors

_KINDS = {
    "classes": "classes of one task",
    "tasks": "several tasks",
    "numbers": "numbers",
    "embedding": "nothing: it outputs an embedding",
}
"""What a teacher predicts, in words."""


class Share(NamedTuple):
    """A source, and its share of the questions."""

    spec: SourceSpec
    schedule: Schedule | None
    """Followed along the questions; shares of a method are normalised. None: the source has turns
    only while it is urgent."""


def _priors() -> Mapping[str, Share]:
    return {"prior": Share(ProceduralPriors(), constant(1.0))}


@dataclass(frozen=True)
class Method:
    """One paper's way to distil without data.

    Attributes:
        name: as users type it.
        paper: citation.
        sources: of samples by name, in the order in which they are built and lots are drawn.
        loss: the student's, of each sample.
        curriculum: weights of samples in that loss.
        student: parts beside the student, by the name that each has in a state.
        student_from: share of the questions before which the student learns nothing, in [0, 1).
        aggregation: how T replies become one target.
        selection: which answered samples enter the bank; None: all.
        answers: the signal that targets are made of; where it is not logits, its needs of logits
            are needs of that.
        alone: the same paper for one institution that releases what this one needs, where the
            method itself has a stand-in for that; None: it has none. See `for_cards`.
        title: what readers of a report are told that ran, where the name says too much of it; "":
            its name.
    """

    name: str
    paper: str
    sources: Mapping[str, Share] = field(default_factory=_priors)
    loss: Loss = l1_centred
    curriculum: Curriculum = UNIFORM
    student: Mapping[str, Spec[StudentPart]] = field(default_factory=dict)
    student_from: float = 0.0
    aggregation: AggregationSpec = field(default_factory=ByRule)
    selection: Selection | None = None
    answers: Signal = Signal.LOGITS
    alone: "Method | None" = None
    title: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.student_from < 1:
            raise SettingsError(
                f"{self.name}: student from {self.student_from}; expected a share of the "
                "questions in [0, 1)"
            )
        for name, (_, schedule) in self.sources.items():
            if schedule is not None:
                expect_weights(f"{self.name}: share of {name}", schedule)
        if all(schedule is None for _, schedule in self.sources.values()):
            raise SettingsError(f"{self.name}: no source has a share of the questions; give one")

    @property
    def needs(self) -> Needs:
        """What its sources cannot do without."""
        nothing = Needs(tasks=ANYTHING)
        needs = reduce(or_, (spec.needs for spec, _ in self.sources.values()), nothing)
        if self.answers not in ROWS:
            return needs
        readers = {(self.answers if s is Signal.LOGITS else s): r for s, r in needs.signals.items()}
        return replace(needs, signals=readers, tasks=EMBEDDINGS)

    def for_cards(self, cards: Sequence[Card]) -> "Method":
        """The form of it that fits what institutions release: ``alone`` where it can be had.

        Features of several institutions have no common space, so there is one of them at most.
        """
        if self.alone is None or len(cards) != 1:
            return self
        try:
            self.alone.check(cards)
        except NeedsError:
            return self
        return self.alone

    @property
    def reads_features(self) -> bool:
        """Whether its terms read features beside logits, which one institution alone can give."""
        return Signal.FEATURES in self.needs.signals and self.answers is Signal.LOGITS

    @property
    def by_question(self) -> bool:
        """Whether targets of one question alone may be compared with one another."""
        return self.answers in WHOLE_BATCH

    def asked(self, wanted: frozenset[Signal]) -> frozenset[Signal]:
        """What institutions are asked for where a source wants these signals."""
        if Signal.LOGITS not in wanted:
            return wanted
        return wanted - {Signal.LOGITS} | {self.answers}

    def outputs(self, answers: Answers, cards: Sequence[Card]) -> Answers:
        """Answers with outputs of each sample as logits, see `as_outputs`."""
        return as_outputs(answers, self.answers, cards)

    @property
    def gradient(self) -> Gradient:
        """Where its generator's gradient comes from; `NONE` where it trains none."""
        specs = (spec for spec, _ in self.sources.values())
        return next((g for spec in specs if (g := getattr(spec, "gradient", None))), NONE)

    @property
    def cost(self) -> int:
        """The most samples that are asked for one proposed, >= 1."""
        return max(spec.cost.asked for spec, _ in self.sources.values())

    def rule_for(self, planned: str) -> str:
        """The fusion rule in use where the plan's is ``planned``.

        Raises:
            SettingsError: its aggregation cannot use that rule.
        """
        return self.aggregation.rule_for(planned)

    def check(self, cards: Sequence[Card], batch_statistics: bool = False) -> None:
        """Hold its needs against what institutions release, before the first question.

        Args:
            cards: of the institutions.
            batch_statistics: whether they are asked for answers by the statistics of each batch.

        Raises:
            NeedsError: naming who needs what, the signal and the institution.
            SettingsError: it has no use for such answers.
        """
        needs = self.needs
        if batch_statistics:
            self._check_batch_statistics(cards)
        for card in cards:
            if card.predicts not in needs.tasks:
                raise NeedsError(
                    f"{self.name} is for {' or '.join(sorted(needs.tasks))}, and {card.name} "
                    f"predicts {_KINDS[card.predicts]}; choose another method: `fedkd methods` "
                    f"says which take {card.predicts}"
                )
            if self.answers not in card.signals:
                raise NeedsError(
                    f"{self.name} needs {self.answers}, which {card.name} does not release; ask "
                    "the owner to name it under policy.signals"
                )
            for signal in sorted(needs.signals.keys() - card.signals):
                raise NeedsError(
                    f"{self.name} needs {signal} ({needs.signals[signal]}), which {card.name} does "
                    "not release; choose another method, or ask the owner to name it under "
                    "policy.signals"
                )
            if needs.pull_back and not card.pull_back:
                raise NeedsError(
                    f"{self.name} needs gradients (pull_back), which {card.name} does not "
                    "release; choose another gradient, or ask the owner for policy.pull_back = true"
                )

    def _check_batch_statistics(self, cards: Sequence[Card]) -> None:
        for card in cards:
            if not card.batch_statistics:
                raise NeedsError(
                    f"questions.batch_statistics needs a teacher with batch norm, and its owner's "
                    f"policy.batch_statistics = true; {card.name} has not both"
                )
        if Signal.BN_GAP in self.needs.signals or self.selection is not None:
            raise SettingsError(
                f"{self.name} measures running statistics (bn_gap), or keeps a part of a batch "
                "alone; set questions.batch_statistics to false, or choose another method"
            )

    def loss_over(self, earlier: EarlierStudent | None, labels: LabelSpaces) -> Loss:
        """The student's loss; where it is `PerSlice`, over old and new classes of a grown run."""
        if not isinstance(self.loss, PerSlice):
            return self.loss
        return self.loss.over(slices_of(earlier, labels))

    def check_public_data(self, given: bool) -> None:
        """Hold its needs against whether the coordinator brings samples of its own.

        Raises:
            SettingsError: it needs some and none are given, or the other way round.
        """
        if given != self.needs.public_data:
            need = "has no use for" if given else "needs"
            raise SettingsError(f"{self.name} {need} public samples; see images.public")
