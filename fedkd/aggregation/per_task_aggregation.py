"""Aggregation of several tasks: one within each task, and nothing across.

Each task has an aggregation of its own, by the same rule, which hears what was answered of that
task alone. So reliability, too, is estimated within a task.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fedkd.aggregation.fixed_rule_aggregation import RuleAggregation
from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.aggregation.task_fusion import TaskFusion, TaskSignals, cards_of_task
from fedkd.core.checkpoint_state import Part, State, gather, scatter
from fedkd.core.interfaces import Record
from fedkd.core.run_plan import AUTO, ClassPrior
from fedkd.core.source_types import Proposal
from fedkd.protocol import Answers, Card, LabelSpaces, NamedTask, Reply, Signal

BuildInner: TypeAlias = Callable[[Record], RuleAggregation]
"""Makes the aggregation of one task, which records by that function."""
OF_TASK = "{name}, {task}"
"""How an institution is called in the record of what is estimated within a task."""


class PerTaskAggregation:
    """Fuses each task by a rule; a target is NaN in a task that nobody answered.

    Args:
        tasks: of the federation, as the student has them.
        build: of the aggregation of a task.
        rule: its name.
        prior: class prior of its targets, see `RuleAggregation`.
        record: gets what those of the tasks record, together.
    """

    def __init__(
        self,
        tasks: Sequence[NamedTask],
        build: BuildInner,
        rule: str,
        prior: ClassPrior = AUTO,
        record: Record | None = None,
    ) -> None:
        self.rule, self.prior, self._record = rule, prior, record
        self._facts: dict[str, dict[str, Any]] = {}
        self._of = {task.name: build(self._recorder(task.name)) for task in tasks}
        self._cards: tuple[Card, ...] = ()
        self._own: dict[str, tuple[Card, ...]] = {}
        """By task, the cards of those who have it."""

    def fusion(self, cards: Sequence[Card]) -> TaskFusion:
        """Of whoever takes part by now."""
        self._take_part(cards)
        built = build_fusion(self.rule, self._cards, self.prior)
        fusions = {task: of.fusion(self._own[task]) for task, of in self._of.items()}
        return TaskFusion(built.rule, LabelSpaces.of(cards), TaskSignals.of(cards), fusions)

    def hear(
        self, answers: Answers, labels: LabelSpaces, selected: Tensor | None, proposal: Proposal
    ) -> None:
        """Let each task's hear what was answered of it."""
        signals = TaskSignals.of(self._cards)
        count = len(next(iter(answers.values())).signals[Signal.LOGITS])
        for task, of in self._of.items():
            own = signals.answers(task, answers) or self._silence(task, count)
            of.hear(own, labels, selected, proposal)

    def improve(self, rng: torch.Generator) -> Tensor | None:
        """New targets (N, K) where those of a task change."""
        found = {task: of.improve(rng) for task, of in self._of.items()}
        self._tell()
        return self._joined(found)

    def exclude(self, names: Collection[str], cards: Sequence[Card]) -> Tensor | None:
        """Forget the answers of ``names``; all targets without them, (N, K); None: none is kept."""
        self._take_part(cards)
        found = {task: of.exclude(names, self._own[task]) for task, of in self._of.items()}
        self._tell()
        return self._joined(found)

    def _take_part(self, cards: Sequence[Card]) -> None:
        if (now := tuple(cards)) != self._cards:
            self._cards = now
            self._own = {task: cards_of_task(now, task) for task in self._of}

    def _joined(self, found: Mapping[str, Tensor | None]) -> Tensor | None:
        """Targets of all tasks side by side; None where none of them changed."""
        if all(targets is None for targets in found.values()):
            return None
        each = [
            of.targets() if (new := found[task]) is None else new for task, of in self._of.items()
        ]
        return torch.cat(each, 1)

    def _silence(self, task: str, count: int) -> dict[str, Reply]:
        """Of a task that nobody answered: one who has it, with NaN for each sample."""
        card = self._own[task][0]
        return {card.name: Reply({Signal.LOGITS: torch.full((count, card.classes), torch.nan)})}

    def _recorder(self, task: str) -> Record:
        def record(kind: str, **facts: Any) -> None:
            own = self._facts.setdefault(kind, {})
            for name, fact in facts.items():
                if isinstance(fact, Mapping):
                    named = {OF_TASK.format(name=n, task=task): value for n, value in fact.items()}
                    own[name] = {**own.get(name, {}), **named}
                else:
                    own[name] = fact

        return record

    def _tell(self) -> None:
        """Put what the tasks' aggregations recorded into the record, as one event of a kind."""
        facts, self._facts = self._facts, {}
        if self._record is not None:
            for kind, own in facts.items():
                self._record(kind, **own)

    def state(self) -> State:
        """Those of all tasks."""
        return gather(self._parts, {})

    def restore(self, state: State) -> None:
        """Fuse again as when ``state`` was taken."""
        scatter(state, self._parts)

    @property
    def _parts(self) -> dict[str, Part]:
        return {str(place): of for place, of in enumerate(self._of.values())}
