"""Output-diversified sampling (ODS): samples moved along a random slope of the ensemble's answers.

Each is asked about again where it then lies.

Source: Tashiro et al., NeurIPS 2020, as Co-Boosting (Dai et al., ICLR 2024) uses it.
"""

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import Context
from fedkd.core.source_types import AnsweredBatch, Cost, FollowUps, Needs, Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.protocol import Answers, Request, Signal, as_float
from fedkd.synthesis.parameterisation import to_bytes
from fedkd.synthesis.teacher_gradients import DroppedGradients, Gradient, Point
from fedkd.synthesis.trained_generator_source import TrainedGenerator, TrainedSource


@dataclass(frozen=True, eq=False)
class OutputDiversified:
    """The settings: a trained source, each of whose batches is moved to where answers differ.

    Attributes:
        source: whose samples are moved; it pulls back.
        step: by which each pixel moves, in (0, 1].
        temperature: of the probabilities whose slope it is, > 0.
    """

    source: TrainedGenerator
    step: float
    temperature: float

    def __post_init__(self) -> None:
        if not (0 < self.step <= 1 and 0 < self.temperature < math.inf):
            raise SettingsError(
                f"output diversification: step {self.step}, temperature {self.temperature}; "
                "expected a step in (0, 1] and a temperature > 0"
            )
        if not self.source.gradient.pulls_back:
            raise SettingsError(
                "output diversification needs the slope of answers; choose gradient "
                '"pull_back" for its source'
            )

    @property
    def gradient(self) -> Gradient:
        """The source's."""
        return self.source.gradient

    @property
    def needs(self) -> Needs:
        """The source's."""
        return self.source.needs

    @property
    def cost(self) -> Cost:
        """Each sample is asked about once more, and pulled back once more."""
        return _dearer(self.source.cost)

    def build(self, context: Context) -> "DiversifiedSource":
        """The source."""
        return DiversifiedSource(self, context.part(self.source), context)


class DiversifiedSource:
    """A trained source whose batches are moved and asked about again before it learns from them.

    Args:
        settings: how far they are moved.
        source: the trained one.
        context: student and random stream.
    """

    def __init__(
        self, settings: OutputDiversified, source: TrainedSource, context: Context
    ) -> None:
        self.settings, self.source, self._context = settings, source, context
        self._dropped = DroppedGradients(context.record)

    @property
    def cost(self) -> Cost:
        """Dearer while the source learns."""
        return _dearer(self.source.cost) if self.source.learning else self.source.cost

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
        """The source's."""
        return self.source.propose(turn)

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """Ask about moved images, and then let the source learn."""
        further = self.source.learn(answered)
        return None if further is None else self._around(answered, further)

    def state(self) -> State:
        """The source's."""
        return self.source.state()

    def restore(self, state: State) -> None:
        """The source's."""
        self.source.restore(state)

    def _around(self, answered: AnsweredBatch, further: FollowUps) -> FollowUps:
        moved = yield from self.moved(answered)
        yield Proposal(moved, "neighbours")
        yield from further

    def moved(self, answered: AnsweredBatch) -> Generator[Request | Proposal, Answers, Tensor]:
        """Each image by a step along the sign of its slope, (B, C, H, W) uint8; asks for the slope.

        ``x + step sign(d <u, softmax(T(x) / tau)> / d x)``, u of each image uniform in [-1, 1]^K
        """
        context, settings = self._context, self.settings
        leaves = {
            name: reply.signals[Signal.LOGITS].float().detach().requires_grad_()
            for name, reply in answered.answers.items()
        }
        signals = {name: {Signal.LOGITS: leaf} for name, leaf in leaves.items()}
        fused = answered.fusion(signals)[Signal.LOGITS]
        direction = 2 * torch.rand(fused.shape, generator=context.rng) - 1
        probability = (fused / settings.temperature).softmax(1)
        torch.autograd.backward((direction * probability).sum())
        cotangents = {
            name: {Signal.LOGITS: leaf.grad}
            for name, leaf in leaves.items()
            if leaf.grad is not None
        }
        point = Point(
            *(answered.images, answered.answers, cotangents),
            *(context.student, context.rng, answered.labels),
            dropped=self._dropped,
        )
        slope = yield from settings.gradient.pull(point)
        moved = as_float(answered.images) + settings.step * slope.sign()
        return to_bytes(moved.clamp(0.0, 1.0))


def _dearer(cost: Cost) -> Cost:
    return replace(cost, asked=cost.asked + 1, pulled_back=cost.pulled_back + 1)
