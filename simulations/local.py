"""The engine ``local``: everybody in one process. Knows institutions, and no network.

Answers go through the same door and the same rounding as on a wire.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from client.institution import Institution, simulated
from fedkd.experiment import Experiment
from fedkd.signals import Answers, Ask, Refusal, Reply, Request
from server.chronicle import Traffic


class Local:
    """The institutions of an experiment, at hand.

    Args:
        experiment: resolved.
        vaults: where they keep their teachers.
        taught: is told how many have theirs.
        brought: institutions by index that take the place of simulated ones.
    """

    def __init__(
        self,
        experiment: Experiment,
        vaults: Path,
        taught: Callable[[int], None],
        brought: Mapping[int, Institution] | None = None,
    ) -> None:
        self._institutions: dict[str, Institution] = {}
        for index in range(experiment.institutions.count):
            institution = (brought or {}).get(index) or simulated(
                experiment, index, vaults / f"{index:04d}"
            )
            self._institutions[institution.card.name] = institution
            taught(index + 1)
        self._questions = dict.fromkeys(self._institutions, 0)
        self.cards = tuple(i.card for i in self._institutions.values())

    def answer(self, request: Request) -> tuple[Answers, dict[str, Refusal | str]]:
        """Replies, and refusals."""
        answers: dict[str, Reply] = {}
        lost: dict[str, Refusal | str] = {}
        for name, institution in self._institutions.items():
            own = request if isinstance(request, Ask) else request.get(name)
            if own is None:
                continue
            self._questions[name] += 1
            said = institution.answer(own)
            if isinstance(said, Reply):
                answers[name] = said
            else:
                lost[name] = said
        return answers, lost

    @property
    def traffic(self) -> dict[str, Traffic]:
        """What each was asked; nothing travels in one process, so no bytes."""
        return {
            name: Traffic(
                institution.tally["asked"],
                institution.tally["pulled_back"],
                refusals=institution.tally["refused"],
                questions=self._questions[name],
            )
            for name, institution in self._institutions.items()
        }
