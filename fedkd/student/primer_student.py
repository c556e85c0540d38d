"""Primer: a first student, taught before the student begins, whose logits the student learns too.

Source: DIP-KD (Vo et al., ICCCI 2026).
"""

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import State, gather, scatter
from fedkd.core.interfaces import BaseStudentPart, Context
from fedkd.core.schedules import Schedule, expect_weights
from fedkd.errors import SettingsError
from fedkd.student.training import Trainer


@dataclass(frozen=True, eq=False)
class Primer:
    """The settings.

    Attributes:
        begins: share of the questions after which it is taught, in [0, 1).
        steps: of its own for each of the student's, > 0.
        weight: of its logits in the student's loss, >= 0; follows the student's progress.
    """

    begins: float
    steps: float
    weight: Schedule

    def __post_init__(self) -> None:
        expect_weights("the weight of the primer's logits", self.weight)
        if not (0 < self.steps < math.inf and 0 <= self.begins < 1):
            raise SettingsError(
                f"primer: steps {self.steps}, begins {self.begins}; expected > 0 and in [0, 1)"
            )

    def build(self, context: Context) -> "TaughtPrimer":
        """The part: a copy of the student as it stands."""
        return TaughtPrimer(self, context)


class TaughtPrimer(BaseStudentPart):
    """A copy of the student, and its trainer.

    Args:
        settings: when and how long it learns.
        context: whose student it is a copy of.
    """

    def __init__(self, settings: Primer, context: Context) -> None:
        self.settings, self._context = settings, context
        steps = max(1, round(settings.steps * context.plan.steps))
        self.network = copy.deepcopy(context.student)
        self._trainer = Trainer(
            self.network,
            context.loss,
            context.sample_weights,
            replace(context.plan, steps=steps),
            context.compute,
        )
        self._taught = False

    def prepare(self, rng: torch.Generator) -> None:
        """Learn all its steps in one go, as soon as its time has come."""
        clock = self._context.clock
        if self._taught or clock.asked / clock.plan.budget < self.settings.begins:
            return
        steps = self._trainer.plan.steps
        for step in range(steps):
            self._trainer.step(self._context.bank, rng, step, step / steps)
        self._taught = True

    def term(self, images: Tensor, logits: Tensor, progress: float) -> Tensor | None:
        """``weight * mean_c |S_c - S0_c|``, (B,), once it is taught."""
        if not self._taught:
            return None
        compute = self._context.compute
        with compute.evaluation(self.network), torch.no_grad():
            own = compute.logits(self.network, images)
        return self.settings.weight(progress) * (logits - own).abs().mean(1)

    def state(self) -> State:
        """Its weights, and whether it is taught: it learns between two rests."""
        return gather({"network": self.network}, {"taught": self._taught})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        self._taught = scatter(state, {"network": self.network})["taught"]
