"""Ensemble weights: what each institution's logits weigh in their mean, learned from answers alone.

Source: Co-Boosting (Dai et al., ICLR 2024).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.aggregation.banked_logits import BankedLogits
from fedkd.aggregation.fusion_rules import RuleFusion, cached_class_fusion
from fedkd.aggregation.logit_adjustment import refuse_prior
from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import Context, Record
from fedkd.core.source_types import Proposal
from fedkd.errors import SettingsError
from fedkd.protocol import Answers, Card, LabelSpaces, Signal

RULE = "mean_logits"
"""The rule that is weighted."""


@dataclass(frozen=True, eq=False)
class LearnedWeights:
    """The settings: how weights are learned, whenever a source vouches for labels of its samples.

    Attributes:
        rate: by which a weight moves for each batch, > 0.
        decay: of the rate, each time that weights are learned, in (0, 1].
        batch: samples in a batch, >= 1.
        rule: the rule that is weighted.
    """

    rate: float
    decay: float
    batch: int = 128
    rule: str = RULE

    def __post_init__(self) -> None:
        if not (0 < self.rate < math.inf and 0 < self.decay <= 1 and self.batch >= 1):
            raise SettingsError(
                f"learned weights: rate {self.rate}, decay {self.decay}, batch {self.batch}; "
                "expected a rate > 0, a decay in (0, 1] and a batch >= 1"
            )

    def rule_for(self, planned: str) -> str:
        """Its own rule.

        Raises:
            SettingsError: the plan has another.
        """
        if planned not in ("auto", self.rule):
            raise SettingsError(
                f"this method learns the weights of {self.rule}, and the rule is {planned}; leave "
                "questions.rule at auto"
            )
        return self.rule

    def with_rule(self, rule: str) -> "LearnedWeights":
        """The same with that rule, as `rule_for` allows it."""
        return replace(self, rule=self.rule_for(rule))

    def build(self, context: Context) -> "WeightedAggregation":
        """The part.

        Raises:
            SettingsError: the plan has a class prior of the fused answer.
        """
        refuse_prior(context.plan.prior, "this method learns what each institution weighs")
        return WeightedAggregation(self, context.plan.capacity, context.record)


class WeightedAggregation:
    """Weights of institutions in [0, 1], and all banked answers of each.

    Args:
        settings: how weights are learned.
        capacity: of the bank; None: it keeps all.
        record: gets the weights each time that they are learned.
    """

    def __init__(
        self, settings: LearnedWeights, capacity: int | None, record: Record | None = None
    ) -> None:
        self.settings, self._record = settings, record
        self.weights: dict[str, float] = {}
        """By institution; begin at one share each."""
        self._kept = BankedLogits(capacity)
        self._labels = torch.empty(0, dtype=torch.long)
        self._learned = 0
        self._due = False
        self._width = 0

    def fusion(self, cards: Sequence[Card]) -> RuleFusion:
        """The weighted mean of logits of whoever takes part by now."""
        weights = self.of([card.name for card in cards])
        return replace(cached_class_fusion(self.settings.rule, tuple(cards)), weights=weights)

    def of(self, names: Sequence[str]) -> Mapping[str, float]:
        """Of these institutions. Whoever is new weighs one share."""
        for name in names:
            self.weights.setdefault(name, 1 / len(names))
        return self.weights

    def hear(
        self, answers: Answers, labels: LabelSpaces, selected: Tensor | None, proposal: Proposal
    ) -> None:
        """Keep each institution's logits, spread over all classes, of what the bank keeps.

        Where the proposal has labels, weights are due to be learned.
        """
        own = {name: reply.signals[Signal.LOGITS].float() for name, reply in answers.items()}
        spread = {name: labels.to_union(name, logits, 0.0) for name, logits in own.items()}
        self.keep(spread, selected, proposal.labels)
        self._due = self._due or proposal.labels is not None

    def keep(
        self, logits: Mapping[str, Tensor], selected: Tensor | None, labels: Tensor | None
    ) -> None:
        """Keep logits (B, K) by institution, with labels (B,) where weights are to be learned.

        Args:
            logits: over the federation's classes.
            selected: (B,) bool, what entered the bank; None: all.
            labels: (B,) classes; None: none to learn from.
        """
        first = next(iter(logits.values()))
        self._width = first.shape[1]
        classes = torch.full((len(first),), -1) if labels is None else labels
        keep = torch.ones(len(first), dtype=torch.bool) if selected is None else selected
        self._kept.add(logits, selected)
        self._labels = self._kept.last(torch.cat([self._labels, classes[keep]]))

    def improve(self, rng: torch.Generator) -> Tensor | None:
        """Where weights are due, learn them; all targets by the new ones, (N, K), oldest first."""
        if not self._due:
            return None
        self._due = False
        self.learn(rng)
        if self._record is not None:
            self._record("weighed", weights=dict(self.weights))
        return self.targets()

    def exclude(self, names: Collection[str], cards: Sequence[Card]) -> Tensor | None:
        """Forget the answers of ``names``; all targets without them, (N, K); None: none is kept."""
        self._kept.drop(names)
        return self.targets() if len(self._kept) else None

    def learn(self, rng: torch.Generator) -> None:
        """One pass: ``w <- clip(w - rate decay^n sign(d CE / d w), 0, 1)`` for each batch.

        CE is of the weighted mean of logits with the label, n counts passes.
        """
        self._learned += 1
        labelled = (self._labels >= 0).nonzero()[:, 0]
        labelled = labelled[torch.randperm(len(labelled), generator=rng)]
        step = self.settings.rate * self.settings.decay**self._learned
        names = sorted(self._kept.by_name)
        weight = torch.tensor([self.weights[name] for name in names])
        for rows in torch.split(labelled, self.settings.batch) if names else ():
            leaf = weight.clone().requires_grad_()
            logits = torch.stack([self._kept.by_name[name][rows] for name in names])
            loss = F.cross_entropy(_mean(logits, leaf), self._labels[rows])
            (slope,) = torch.autograd.grad(loss, leaf)
            weight = (weight - step * slope.sign()).clamp(0.0, 1.0)
        self.weights |= dict(zip(names, weight.tolist(), strict=True))

    def targets(self) -> Tensor:
        """(N, K), the fused logits of all that is banked, oldest first."""
        names = sorted(self._kept.by_name)
        if not names:  # only excluded institutions answered
            return torch.zeros(len(self._kept), self._width)
        logits = torch.stack([self._kept.by_name[name] for name in names])
        return _mean(logits, torch.tensor([self.weights[name] for name in names]))

    def state(self) -> State:
        """Weights, and all logits that are kept."""
        numbers = {
            "weights": dict(self.weights),
            "learned": self._learned,
            "due": self._due,
            "width": self._width,
        }
        return State({"labels": self._labels.clone(), **self._kept.state().tensors}, numbers)

    def restore(self, state: State) -> None:
        """Weigh again as when ``state`` was taken."""
        self._kept.restore(state)
        self._labels = state.tensors["labels"].clone()
        self.weights, self._learned = dict(state.numbers["weights"]), state.numbers["learned"]
        self._due, self._width = state.numbers["due"], state.numbers["width"]


def _mean(logits: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over those who answered, of (T, B, K) with NaN where one did not. (B, K).

    Zeros where nobody did.
    """
    present = ~logits[..., :1].isnan()  # (T, B, 1)
    each = weight[:, None, None] * present
    total = each.sum(0)
    alike = present / present.sum(0).clamp_min(1)
    share = torch.where(total > 0, each / total.clamp_min(1e-12), alike)
    return (share * logits.nan_to_num()).sum(0)
