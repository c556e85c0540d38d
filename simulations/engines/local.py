"""The engine ``local``: everybody in one process. Knows institutions, and no network.

Answers go through the same door and the same rounding as on a wire, and bytes are counted that
would have travelled there; images that would have been drawn by recipe are taken as they are.
"""

import resource
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from fedkd.client.institution import Institution, simulated
from fedkd.errors import SettingsError
from fedkd.experiment.experiment import Experiment
from fedkd.protocol.signals import Answers, Ask, Refusal, Reply, Request
from fedkd.server.hub.query_encoding import Letter, Wording
from fedkd.server.run.recorder import Traffic, traffic_of
from fedkd.wire.codec import encode
from fedkd.wire.messages import Answer, Declined, Named, Question

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
        self._wordings: dict[str, Wording] = {}
        self._number = 0
        for index in range(experiment.institutions.count):
            institution = (brought or {}).get(index) or simulated(
                experiment, index, vaults / f"{index:04d}", books=books
            )
            self._institutions[institution.card.name] = institution
            self._counts[institution.card.name] = Counter()
            self._wordings[institution.card.name] = Wording()
            taught(index + 1)
        self.cards = tuple(i.card for i in self._institutions.values())

    def answer(self, request: Request) -> tuple[Answers, dict[str, Refusal | str]]:
        """Replies, and refusals."""
        answers: dict[str, Reply] = {}
        lost: dict[str, Refusal | str] = {}
        letters: dict[int, Letter] = {}
        for name, institution in self._institutions.items():
            own = request if isinstance(request, Ask) else request.get(name)
            if own is None:
                continue
            if id(own) not in letters:
                self._number += 1
                letters[id(own)] = Letter(Question(self._number, own))
            said = institution.answer(own)
            self._count(name, letters[id(own)], said)
            if isinstance(said, Reply):
                answers[name] = said
            else:
                lost[name] = said
        return answers, lost

    def _count(self, name: str, letter: Letter, said: Reply | Refusal) -> None:
        """What was asked, and what would have travelled."""
        counts, number, own = self._counts[name], letter.question.id, letter.question.request
        form = self._wordings[name].of(letter, self._institutions[name].card)
        counts["questions"] += 1
        counts["recipes"] += isinstance(form.message, Named)
        counts["bytes_sent"] += len(form.data)
        if isinstance(said, Reply):
            kind = "samples_asked" if isinstance(own, Ask) else "samples_pulled_back"
            counts[kind] += len(own.images)
            counts["bytes_received"] += len(encode(Answer(number, said), packed=True))
        else:
            counts["refusals"] += 1
            counts["bytes_received"] += len(encode(Declined(number, said)))

    @property
    def traffic(self) -> dict[str, Traffic]:
        """What each answered and refused here, and the bytes that would have travelled.

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
