"""Sample source that draws more samples than it asks about: the student chooses among them.

A drawn sample costs no question. Procedural images look like a few classes to most teachers, and
then most questions teach those. The student's answers, which are free, tell before the question
which class a sample is likely to teach.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import BaseSource, Context
from fedkd.core.source_types import AnsweredBatch, Cost, FollowUps, Needs, Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.synthesis.prior_sampling.prior_source import PriorChoice, ProceduralPriors


@dataclass(frozen=True, eq=False)
class CandidateSelection:
    """The settings: candidates of procedural priors, of which some are asked about.

    Attributes:
        priors: what draws candidates; the very value that other sources of the method use.
        candidates: drawn for each that is asked about, >= 2.
    """

    priors: ProceduralPriors
    candidates: int
    needs: ClassVar[Needs] = Needs()
    cost: ClassVar[Cost] = Cost()

    def __post_init__(self) -> None:
        if self.candidates < 2:
            raise SettingsError(
                f"candidates = {self.candidates}; expected 1, or more to choose from"
            )

    def build(self, context: Context) -> "SelectedCandidates":
        """The source."""
        return SelectedCandidates(self.candidates, context.part(self.priors), context)


class SelectedCandidates(BaseSource):
    """Candidates of one prior, those asked about whose class, as the student sees it, is rare.

    A candidate is drawn without replacement with probability ~ 1 / ((1 + n_c) m_c): c is the
    student's class of it, n_c how many answers decided for c so far, m_c how many candidates are of
    c. So classes take turns, and the rarer one was among the answers the more often.

    Source: ours. Class balance by the decisions of what is trained is that of CaBaGE
    (arXiv 2409.10643), which filters what a generator made.

    Args:
        candidates: drawn for each that is asked about.
        prior: what draws them.
        context: student and bank.
    """

    def __init__(self, candidates: int, prior: PriorChoice, context: Context) -> None:
        self._candidates, self._prior, self._context = candidates, prior, context
        self._answered = torch.zeros(context.classes, dtype=torch.int64)

    @property
    def facts(self) -> Mapping[str, Any]:
        """The priors'."""
        return self._prior.facts

    def propose(self, turn: Turn) -> Proposal | None:
        """Chosen candidates; the prior's own while one was never tried."""
        if self._prior.untried:
            return self._prior.draw(turn.count, turn.rng)
        drawn = self._prior.draw(turn.count * self._candidates, turn.rng)
        compute, student = self._context.compute, self._context.student
        with compute.evaluation(student), torch.no_grad():
            classes = compute.logits(student, drawn.images).argmax(1).cpu()
        chosen = torch.zeros(len(classes), dtype=torch.bool)
        weights = class_balancing_weights(classes, self._answered)
        chosen[torch.multinomial(weights, turn.count, generator=turn.rng)] = True
        return drawn.only(chosen)

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """Count the classes that were decided for; the prior hears of its samples too."""
        decided = answered.target.argmax(1).cpu()
        self._answered += torch.bincount(decided, minlength=len(self._answered))
        return self._prior.learn(answered)

    def state(self) -> State:
        """Answers of each class so far, and what the priors remember."""
        numbers = {"answered": self._answered.tolist(), "priors": self._prior.state().numbers}
        return State(numbers=numbers)

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken of the same priors."""
        self._answered = torch.tensor(state.numbers["answered"], dtype=torch.int64)
        self._prior.restore(State(numbers=state.numbers["priors"]))


def class_balancing_weights(classes: Tensor, answered: Tensor) -> Tensor:
    """``1 / ((1 + n_c) m_c)`` of each candidate's class c. (N,) float64.

    Args:
        classes: (N,) of candidates, int64.
        answered: (K,) answers of each class so far.
    """
    among = torch.bincount(classes, minlength=len(answered))
    return 1.0 / ((1.0 + answered.double()) * among.double())[classes]
