"""Sample source of procedural images: a bandit over the priors' parameters, paid for what is hard.

Every prior with a range of parameters is divided into two arms, one for each half of that range.
The reward of an arm is what the augmenter of TST (Shao et al., IJCAI 2023) learns from: the teacher
is sure of its answer and the student does not give it.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fedkd.core.checkpoint_state import State
from fedkd.core.device import Compute
from fedkd.core.interfaces import Context
from fedkd.core.source_types import AnsweredBatch, Cost, FollowUps, Needs
from fedkd.core.task import Task
from fedkd.procedural import Prior
from fedkd.synthesis.prior_sampling.prior_source import PriorChoice


@dataclass(frozen=True, eq=False)
class PriorParameterBandit:
    """The settings: the experiment names the priors, see `fedkd.procedural`.

    Attributes:
        sharpness: of the choice among arms, > 0; small trusts rewards blindly.
        memory: batches remembered of each arm, >= 1; the student changes, and rewards with it.
        negated: choose what pays least, which is a control.
    """

    sharpness: float = 0.1
    memory: int = 4
    negated: bool = False
    needs: ClassVar[Needs] = Needs()
    cost: ClassVar[Cost] = Cost()

    def build(self, context: Context) -> "ArmChoice":
        """The source."""
        arms = {
            arm: p for name, of in context.priors.items() for arm, p in halves(name, of).items()
        }
        return ArmChoice(self, arms, context.shape, context.task, context.student, context.compute)


class ArmChoice(PriorChoice):
    """Arms, each chosen as often as it pays.

    Every arm is tried once first; then they are drawn with probability softmax(R / sharpness), R
    the mean reward of an arm's last batches.

    Args:
        settings: how.
        arms: priors by name, at least one.
        shape: (C, H, W).
        task: what the answers are.
        student: (B, C, H, W) in [0, 1] -> (B, K), read and never changed.
        compute: where the student is, and how it is evaluated.
    """

    def __init__(
        self,
        settings: PriorParameterBandit,
        arms: Mapping[str, Prior],
        shape: tuple[int, int, int],
        task: Task,
        student: nn.Module,
        compute: Compute,
    ) -> None:
        super().__init__(arms, shape, task, settings.sharpness, settings.memory)
        self._student, self._compute = student, compute
        self._sign = -1.0 if settings.negated else 1.0
        self._rewards: dict[str, deque[float]] = {n: deque(maxlen=settings.memory) for n in arms}

    @property
    def value(self) -> dict[str, float]:
        """R of each arm that was tried, in [0, 1]; less than 0 where rewards are negated."""
        return {n: self._sign * sum(of) / len(of) for n, of in self._rewards.items() if of}

    @property
    def facts(self) -> Mapping[str, Any]:
        """H and R of each arm."""
        return {**super().facts, "reward": self.value}

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """Pay the arm that proposed this batch."""
        super().learn(answered)
        if (name := answered.proposal.origin) in self._rewards:
            with self._compute.evaluation(self._student), torch.no_grad():
                said = self._compute.logits(self._student, answered.images).to(answered.target)
            self._rewards[name].append(float(reward(answered.target, said).mean()))
        return None

    def state(self) -> State:
        """Class counts and rewards of each arm."""
        counts = super().state().numbers
        return State(
            numbers={"counts": counts, "rewards": {n: [*r] for n, r in self._rewards.items()}}
        )

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken of the same arms."""
        super().restore(State(numbers=state.numbers["counts"]))
        for name, rewards in self._rewards.items():
            rewards.clear()
            rewards.extend(state.numbers["rewards"][name])


def reward(target: Tensor, student: Tensor) -> Tensor:
    """What a sample pays, (B,) in [0, 1]: p_T(y) * (1 - p_S(y)), y the class that the target names.

    Its logarithm is what TST's augmenter maximises, with the label in the place of y.

    Args:
        target: (B, K) fused logits.
        student: (B, K) logits.
    """
    named = target.argmax(1, keepdim=True)
    sure, given = (logits.softmax(1).gather(1, named)[:, 0] for logits in (target, student))
    return sure * (1 - given)


def halves(name: str, prior: Prior) -> dict[str, Prior]:
    """Arms of a prior: one for each half of its first range; itself where it has none.

    A range is a field with two numbers, the first less than the second. Of a prior that wraps
    another, which warps or mixes images, the inner one is divided.
    """
    value: Any = prior  # of any dataclass, whose fields are known when it is there
    inner = getattr(prior, "prior", None)
    if inner is not None:
        return {n: replace(value, prior=p) for n, p in halves(name, inner).items()}
    names: list[str] = [each.name for each in fields(value)] if is_dataclass(prior) else []
    for field_name in names:
        match getattr(prior, field_name):
            case (float(low), float(high)) if low < high:
                middle = (low + high) / 2
                parts = {"low": (low, middle), "high": (middle, high)}
                return {
                    f"{name}, {part} {field_name}": replace(value, **{field_name: ends})
                    for part, ends in parts.items()
                }
    return {name: prior}
