"""A source that asks for features too, and tells a student part what was answered."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import Context, Source, SourceSpec
from fedkd.core.source_types import AnsweredBatch, Cost, FollowUps, Needs, Proposal, Turn
from fedkd.protocol import Signal
from fedkd.student.feature_alignment import AlignedStudent, FeatureAlignment
from fedkd.synthesis.teacher_gradients import Gradient


@dataclass(frozen=True, eq=False)
class RememberedFeatures:
    """The settings: another source, and who is told.

    Attributes:
        source: whose samples are asked about.
        alignment: a student part of the same method.
    """

    source: SourceSpec
    alignment: FeatureAlignment

    @property
    def gradient(self) -> Gradient | None:
        """The source's; None where it trains nothing."""
        own: Gradient | None = getattr(self.source, "gradient", None)
        return own

    @property
    def needs(self) -> Needs:
        """The source's, and features."""
        needs = self.source.needs
        return replace(needs, signals={**needs.signals, Signal.FEATURES: "the student"})

    @property
    def cost(self) -> Cost:
        """The source's."""
        return self.source.cost

    def build(self, context: Context) -> "RememberingSource":
        """The source."""
        return RememberingSource(context.part(self.source), context.part(self.alignment))


class RememberingSource:
    """Another source, whose answers are told.

    Args:
        source: that proposes and learns.
        alignment: that is told.
    """

    def __init__(self, source: Source, alignment: AlignedStudent) -> None:
        self.source, self.alignment = source, alignment

    @property
    def cost(self) -> Cost:
        """The source's."""
        return self.source.cost

    @property
    def urgent(self) -> bool:
        """The source's."""
        return self.source.urgent

    @property
    def steps(self) -> int:
        """The source's."""
        return self.source.steps

    @property
    def facts(self) -> Mapping[str, Any]:
        """The source's."""
        return self.source.facts

    def propose(self, turn: Turn) -> Proposal | None:
        """The source's, to be answered with features."""
        proposal = self.source.propose(turn)
        if proposal is None:
            return None
        return replace(proposal, signals=proposal.signals | {Signal.FEATURES})

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """Tell what was answered, and let the source learn."""
        for reply in answered.answers.values():
            features, logits = reply.signals[Signal.FEATURES], reply.signals[Signal.LOGITS]
            self.alignment.remember(answered.images, features, logits)
        return self.source.learn(answered)

    def state(self) -> State:
        """The source's."""
        return self.source.state()

    def restore(self, state: State) -> None:
        """The source's."""
        self.source.restore(state)
