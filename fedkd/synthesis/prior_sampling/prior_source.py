"""Sample source of procedural images; priors are chosen by class entropy of the answers."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import BaseSource, Context
from fedkd.core.source_types import ANYTHING, AnsweredBatch, Cost, FollowUps, Needs, Proposal, Turn
from fedkd.core.task import Task
from fedkd.evaluation import class_entropy
from fedkd.procedural import SEED_LIMIT, Prior, named_prior, render
from fedkd.protocol import Recipe


@dataclass(frozen=True, eq=False)
class ProceduralPriors:
    """The settings: the experiment names the priors, see `fedkd.procedural`.

    Attributes:
        sharpness: of the choice among them, > 0; small trusts class entropy blindly.
        memory: batches remembered of each prior, >= 1.
    """

    sharpness: float = 0.1
    memory: int = 8
    needs: ClassVar[Needs] = Needs(tasks=ANYTHING)
    cost: ClassVar[Cost] = Cost()

    def build(self, context: Context) -> "PriorChoice":
        """The source."""
        return PriorChoice(context.priors, context.shape, context.task, self.sharpness, self.memory)


class PriorChoice(BaseSource):
    """Procedural priors, each chosen as often as it excites the teachers.

    The signal that needs no data: H, the entropy of the teachers' hard answers over classes, or of
    numbers over parts of their range, over a prior's last ``memory`` batches, normalised to [0, 1].
    A prior whose samples all look like one class to the teachers teaches one class. Every prior is
    tried once first; then they are drawn with probability softmax(H / sharpness).

    Args:
        priors: by name, at least one.
        shape: (C, H, W).
        task: what the answers are.
        sharpness: > 0.
        memory: batches remembered of each prior.
    """

    def __init__(
        self,
        priors: Mapping[str, Prior],
        shape: tuple[int, int, int],
        task: Task,
        sharpness: float = 0.1,
        memory: int = 8,
    ) -> None:
        self.priors, self.shape, self.sharpness = dict(priors), shape, sharpness
        self._named = {name: named_prior(prior) for name, prior in self.priors.items()}
        self._task = task
        self._counts: dict[str, deque[Tensor]] = {n: deque(maxlen=memory) for n in self.priors}

    @property
    def class_entropy(self) -> dict[str, float]:
        """H of each prior that was tried, in [0, 1]."""
        return {n: class_entropy(tuple(counts)) for n, counts in self._counts.items() if counts}

    @property
    def value(self) -> Mapping[str, float]:
        """By prior that was tried, what the choice goes by: H."""
        return self.class_entropy

    @property
    def facts(self) -> Mapping[str, Any]:
        """H of each prior."""
        return {"class_entropy": self.class_entropy}

    @property
    def untried(self) -> list[str]:
        """Priors to which nothing was answered yet, in their order."""
        return [n for n, counts in self._counts.items() if not counts]

    def propose(self, turn: Turn) -> Proposal | None:
        """From a prior not yet tried, or else from one chosen by its value."""
        return self.draw(turn.count, turn.rng)

    def draw(self, count: int, rng: torch.Generator) -> Proposal:
        """``count`` samples of one prior; by recipe, where there is one."""
        name = self._choose(rng)
        seed = int(torch.randint(SEED_LIMIT, (), generator=rng))
        if source := self._named[name]:
            recipe = Recipe(source, seed, count)
            return Proposal(render(recipe, self.shape), name, recipe=recipe)
        own = torch.Generator().manual_seed(seed)
        return Proposal(self.priors[name].draw(count, self.shape, own), name)

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """Remember how the hard answers to this batch spread over classes."""
        self.hear(answered.proposal.origin, answered.target)
        return None

    def hear(self, origin: str, target: Tensor) -> None:
        """Fused logits (B, K), answered to a batch of ``origin``, which may be no prior."""
        if origin in self._counts:
            self._counts[origin].append(self._task.histogram(target))

    def state(self) -> State:
        """Class counts of each prior; priors themselves remember nothing."""
        return State(numbers={n: [c.tolist() for c in of] for n, of in self._counts.items()})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken of the same priors."""
        for name, counts in self._counts.items():
            counts.clear()
            counts.extend(torch.tensor(each) for each in state.numbers[name])

    def _choose(self, rng: torch.Generator) -> str:
        if untried := self.untried:
            return untried[0]
        value = self.value
        weight = (torch.tensor([value[n] for n in self.priors]) / self.sharpness).softmax(0)
        return list(self.priors)[int(torch.multinomial(weight, 1, generator=rng))]
