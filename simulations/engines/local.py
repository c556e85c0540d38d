"""The engine ``local``: all institutions in one process, without a network.

Answers pass the same release gate and the same rounding as over gRPC, and the bytes that would have
been sent are counted. Images that a recipe would render are taken as they are.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from fedkd.client.institution import Institution, institution_name, simulated_institution
from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.process.open_file_limit import OTHER_OPEN_FILES, raise_open_file_limit
from fedkd.protocol import Answers, Ask, Refusal, Reply, Request
from fedkd.server.hub.query_encoding import EncodingSelector, QueryEncodings
from fedkd.server.run.run_recorder import Traffic, traffic_of
from fedkd.wire import Answer, Declined, Query, RecipeQuery, encode

FILES_PER_LEDGER = 3
"""Of one ledger: the database, its write-ahead log, and the log's index."""


class LocalInstitutions:
    """The institutions of an experiment in this process: answer requests, count traffic.

    Args:
        experiment: resolved.
        vaults: folder where they keep their teachers.
        on_trained: called with the number of institutions whose teacher is trained.
        replacements: institutions by index that replace simulated ones.
        ledgers: folder of ledgers that outlive this process; None keeps them in memory.
        without: names of institutions that take no part.

    Raises:
        SettingsError: this process may not open as many files as these ledgers need.
    """

    def __init__(
        self,
        experiment: Experiment,
        vaults: Path,
        on_trained: Callable[[int], None],
        replacements: Mapping[int, Institution] | None = None,
        ledgers: Path | None = None,
        without: Collection[str] = (),
    ) -> None:
        if ledgers is not None:
            _raise_file_limit(experiment.institutions.count)
        self._institutions: dict[str, Institution] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._selectors: dict[str, EncodingSelector] = {}
        self._number = 0
        for ready, index in enumerate(experiment.institutions.taking_part, 1):
            if institution_name(index, experiment.institutions.count) in without:
                continue
            institution = (replacements or {}).get(index) or simulated_institution(
                experiment, index, vaults / f"{index:04d}", ledgers=ledgers
            )
            self._institutions[institution.card.name] = institution
            self._counts[institution.card.name] = Counter()
            self._selectors[institution.card.name] = EncodingSelector()
            on_trained(ready)
        self.cards = tuple(i.card for i in self._institutions.values())

    def answer(self, request: Request) -> tuple[Answers, dict[str, Refusal | str]]:
        """Replies and refusals, by institution."""
        answers: dict[str, Reply] = {}
        refusals: dict[str, Refusal | str] = {}
        encodings_of: dict[int, QueryEncodings] = {}
        for name, institution in self._institutions.items():
            query = request if isinstance(request, Ask) else request.get(name)
            if query is None:
                continue
            if id(query) not in encodings_of:
                self._number += 1
                encodings_of[id(query)] = QueryEncodings(Query(self._number, query))
            reply = institution.answer(query)
            self._count(name, encodings_of[id(query)], reply)
            if isinstance(reply, Reply):
                answers[name] = reply
            else:
                refusals[name] = reply
        return answers, refusals

    def _count(self, name: str, encodings: QueryEncodings, reply: Reply | Refusal) -> None:
        """Count samples asked, and bytes that would have been sent."""
        counts, number, query = (
            self._counts[name],
            encodings.query.id,
            encodings.query.request,
        )
        form = self._selectors[name].select(encodings, self._institutions[name].card)
        counts["questions"] += 1
        counts["recipes"] += isinstance(form.message, RecipeQuery)
        counts["bytes_sent"] += len(form.data)
        if isinstance(reply, Reply):
            kind = "samples_asked" if isinstance(query, Ask) else "samples_pulled_back"
            counts[kind] += len(query.images)
            counts["bytes_received"] += len(encode(Answer(number, reply), packed=True))
        else:
            counts["refusals"] += 1
            counts["bytes_received"] += len(encode(Declined(number, reply)))

    @property
    def traffic(self) -> dict[str, Traffic]:
        """Per institution: samples answered, refusals, and bytes that would have been sent.

        Ledgers may have more: earlier processes of the run, and a query at which one was killed.
        """
        return {name: traffic_of(counts) for name, counts in self._counts.items()}


def _raise_file_limit(institutions: int) -> None:
    """Raise the limit of open files for so many ledgers; most systems allow 1,024 at first."""
    needed = FILES_PER_LEDGER * institutions + OTHER_OPEN_FILES
    if (allowed := raise_open_file_limit(needed)) < needed:
        raise SettingsError(
            f"ledgers of {institutions:,} institutions are {needed:,} open files and this process "
            f"may open {allowed:,}; raise `ulimit -Hn`, or keep them in memory with "
            "--checkpoint 0"
        )
