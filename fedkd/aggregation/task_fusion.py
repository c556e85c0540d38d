"""Fusion of several tasks: within each by a rule, over those who answer it; nothing across tasks.

What one institution says of a task is fused as if the task were all there is. So every rule of
classes serves, and who is unreliable in one task may be relied on in another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedkd.aggregation.fusion_rules import build_class_fusion
from fedkd.aggregation.logit_adjustment import refuse_prior
from fedkd.core.run_plan import AUTO, ClassPrior
from fedkd.core.source_types import Fusion
from fedkd.protocol import WHOLE_BATCH, Answers, Card, LabelSpaces, Reply, Signal, task_slices


def cards_of_task(cards: Sequence[Card], task: str) -> tuple[Card, ...]:
    """Of those who have a task: their cards as if it were all that they answer."""
    found = []
    for card in cards:
        if task in (slices := task_slices(card.tasks)):
            at = slices[task]
            names = next(each.class_names for each in card.tasks if each.name == task)
            counts = card.class_counts and card.class_counts[at]
            found.append(
                replace(card, classes=len(names), class_names=names, class_counts=counts, tasks=())
            )
    return tuple(found)


@dataclass(frozen=True)
class TaskSignals:
    """Which of an institution's outputs are of which task."""

    slices: Mapping[str, Mapping[str, slice]]
    """By institution, then by task."""

    @classmethod
    def of(cls, cards: Sequence[Card]) -> "TaskSignals":
        """Of these institutions."""
        return cls({card.name: task_slices(card.tasks) for card in cards})

    def logits(
        self, task: str, signals: Mapping[str, Mapping[Signal, Tensor]]
    ) -> dict[str, dict[Signal, Tensor]]:
        """Logits of a task, (B, K_m), by institution that answered it."""
        return {
            name: {Signal.LOGITS: own[Signal.LOGITS][:, self.slices[name][task]]}
            for name, own in signals.items()
            if task in self.slices[name]
        }

    def answers(self, task: str, answers: Answers) -> dict[str, Reply]:
        """The same as replies."""
        signals = {name: reply.signals for name, reply in answers.items()}
        return {name: Reply(own) for name, own in self.logits(task, signals).items()}


@dataclass(frozen=True)
class TaskFusion:
    """A fusion for each task; see `fedkd.core.source_types.Fusion`."""

    rule: str
    labels: LabelSpaces
    signals: TaskSignals
    fusions: Mapping[str, Fusion]
    """By task."""

    def __call__(self, signals: Mapping[str, Mapping[Signal, Tensor]]) -> dict[Signal, Tensor]:
        """Fuse logits (B, K_i) by institution into (B, K), NaN in a task that nobody answered.

        Batch-norm gap and relations are means over all; features are left out.
        """
        first = next(iter(signals.values()))[Signal.LOGITS]
        parts = []
        for task in self.labels.tasks:
            answered = self.signals.logits(task.name, signals)
            if answered:
                parts.append(self.fusions[task.name](answered)[Signal.LOGITS])
            else:
                silent = first.new_full((len(first), len(task.class_names)), torch.nan)
                parts.append(silent.float())
        fused = {Signal.LOGITS: torch.cat(parts, 1)}
        for signal in sorted(WHOLE_BATCH):
            if own := [s[signal].float() for _, s in sorted(signals.items()) if signal in s]:
                fused[signal] = torch.stack(own).mean(0)
        return fused

    def of(self, answers: Answers) -> dict[Signal, Tensor]:
        """`__call__` on replies."""
        return self({name: reply.signals for name, reply in answers.items()})


def build_task_fusion(rule: str, cards: Sequence[Card], prior: ClassPrior = AUTO) -> TaskFusion:
    """The fusion of these institutions' tasks, each by this rule.

    Raises:
        SettingsError: see `fedkd.aggregation.fusion_rules.build_class_fusion`; or a prior with
            shares, which are of one task.
    """
    if not isinstance(prior, str):
        refuse_prior(prior, "these teachers have several tasks")
    labels = LabelSpaces.of(cards)
    fusions = {
        task.name: build_class_fusion(rule, cards_of_task(cards, task.name), prior)
        for task in labels.tasks
    }
    rules = sorted({fusion.rule for fusion in fusions.values()})
    return TaskFusion(", ".join(rules), labels, TaskSignals.of(cards), fusions)
