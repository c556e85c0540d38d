"""Early stopping: no more questions once agreement on held-back samples no longer rises.

The student's steps go on to the end of the plan, on the answers that there are: its learning rate
still falls, which no evaluation before can show. So questions are saved, and not time.
"""

import math

from fedkd.core.checkpoint_state import State


class EarlyStopping:
    """Decides when to stop, by the best score so far; draws no random number.

    Args:
        patience: evaluations in a row without a new best score, after which it stops; >= 1. None:
            never.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self._best, self._waited = -math.inf, 0

    @property
    def stopped(self) -> bool:
        """Whether no more questions are to be asked; stays so."""
        return self.patience is not None and self._waited >= self.patience

    def hear(self, score: float | None) -> bool:
        """One evaluation, in order of time; True where it is the one that stops.

        None, where there was no score, changes nothing.
        """
        if score is None or self.stopped:
            return False
        self._waited = 0 if score > self._best else self._waited + 1
        self._best = max(score, self._best)
        return self.stopped

    def state(self) -> State:
        """The best score, and for how long there was none better."""
        best = None if math.isinf(self._best) else self._best
        return State({}, {"best": best, "waited": self._waited})

    def restore(self, state: State) -> None:
        """Decide as when ``state`` was taken."""
        best = state.numbers["best"]
        self._best, self._waited = -math.inf if best is None else best, state.numbers["waited"]
