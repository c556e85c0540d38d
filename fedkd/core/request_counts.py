"""Request counts: samples queried and gradients requested so far, held against the budget."""

from fedkd.core.checkpoint_state import State
from fedkd.errors import SettingsError
from fedkd.protocol import Ask, Request


class RequestCounts:
    """What every institution was asked for.

    Args:
        budget: most samples that may be asked of each institution.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.asked = 0
        """Samples asked of each institution."""
        self.pulled_back = 0
        """Samples whose gradient each institution was asked for."""
        self._ended = False

    @property
    def may_ask(self) -> bool:
        """Whether there is a next question: some of the budget is left, and no `end` was told."""
        return self.asked < self.budget and not self._ended

    def end(self) -> None:
        """No source has another sample that the budget pays for."""
        self._ended = True

    def add(self, request: Request) -> None:
        """Count a request that was answered; a pause counts for nothing."""
        if isinstance(request, Ask):
            self.asked += len(request.images)
        elif request:
            self.pulled_back += max(len(each.images) for each in request.values())

    def expect_within_budget(self, request: Request, origin: str) -> None:
        """Refuse a follow-up that costs more than its source had said.

        Args:
            request: that is to be put next.
            origin: of the samples on whose account it is put.

        Raises:
            SettingsError: it asks about more samples than are left of the budget.
        """
        if isinstance(request, Ask) and self.asked + len(request.images) > self.budget:
            raise SettingsError(
                f"source {origin} asks about {len(request.images)} samples more than the budget "
                f"of {self.budget} holds; its cost has to say what it asks"
            )

    def state(self) -> State:
        """Both counts, and whether that is the end."""
        counts = {"asked": self.asked, "pulled_back": self.pulled_back}
        return State(numbers={**counts, "ended": self._ended})

    def restore(self, state: State) -> None:
        """Count on from where ``state`` was taken."""
        self.asked, self.pulled_back = state.numbers["asked"], state.numbers["pulled_back"]
        self._ended = bool(state.numbers.get("ended", False))  # absent from older ones
