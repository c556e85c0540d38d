"""The engine ``local``: everybody in one process. Knows institutions, and no network.

Answers go through the same door and the same rounding as on a wire.
"""

import resource
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from client.institution import Institution, simulated
from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.signals import Answers, Ask, Refusal, Reply, Request
from server.chronicle import Traffic, traffic_of

OPEN_FILES = 3
"""Of a ledger: the database, its write-ahead log, and the index of that."""
OTHER_FILES = 256
"""Of everything else."""


class Local:
    """The institutions of an experiment, at hand.

    Args:
        experiment: resolved.
        vaults: where they keep their teachers.
        taught: is told how many have theirs.
        brought: institutions by index that take the place of simulated ones.
        books: folder of ledgers that outlive this process; None keeps them in memory.

    Raises:
        SettingsError: this process may not open as many files as these ledgers are.
    """

    def __init__(
        self,
        experiment: Experiment,
        vaults: Path,
        taught: Callable[[int], None],
        brought: Mapping[int, Institution] | None = None,
        books: Path | None = None,
    ) -> None:
        if books is not None:
            _make_room(experiment.institutions.count)
        self._institutions: dict[str, Institution] = {}
        self._counts: dict[str, Counter[str]] = {}
        for index in range(experiment.institutions.count):
            institution = (brought or {}).get(index) or simulated(
                experiment, index, vaults / f"{index:04d}", books=books
            )
            self._institutions[institution.card.name] = institution
            self._counts[institution.card.name] = Counter()
            taught(index + 1)
        self.cards = tuple(i.card for i in self._institutions.values())

    def answer(self, request: Request) -> tuple[Answers, dict[str, Refusal | str]]:
        """Replies, and refusals."""
        answers: dict[str, Reply] = {}
        lost: dict[str, Refusal | str] = {}
        for name, institution in self._institutions.items():
            own = request if isinstance(request, Ask) else request.get(name)
            if own is None:
                continue
            self._counts[name]["questions"] += 1
            said = institution.answer(own)
            if isinstance(said, Reply):
                answers[name] = said
                kind = "samples_asked" if isinstance(own, Ask) else "samples_pulled_back"
                self._counts[name][kind] += len(own.images)
            else:
                lost[name] = said
                self._counts[name]["refusals"] += 1
        return answers, lost

    @property
    def traffic(self) -> dict[str, Traffic]:
        """What each answered and refused here; nothing travels in one process, so no bytes.

        The books may have more: earlier lives of the run, and a question that one of them died at.
        """
        return {name: traffic_of(counts) for name, counts in self._counts.items()}


def _make_room(institutions: int) -> None:
    """Let this process open the ledgers of so many; most systems allow 1,024 files at first."""
    needed = OPEN_FILES * institutions + OTHER_FILES
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY or allowed >= needed:
        return
    if most != resource.RLIM_INFINITY and most < needed:
        raise SettingsError(
            f"ledgers of {institutions:,} institutions are {needed:,} open files and this process "
            f"may open {most:,}; raise `ulimit -Hn`, or keep them in memory with --checkpoint 0"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
