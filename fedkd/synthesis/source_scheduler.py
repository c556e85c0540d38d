"""Source scheduler: whose turn it is to propose, and that no sample is asked about twice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedkd.core.bank import Bank
from fedkd.core.interfaces import Record, Source
from fedkd.core.run_plan import Plan
from fedkd.core.schedules import ExpectedProgress, Schedule
from fedkd.core.source_types import Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.synthesis.parameterisation import to_bytes

ATTEMPTS = 8
"""Proposals of a batch before a source is taken to have nothing new to ask."""


@dataclass(frozen=True, eq=False)
class Scheduled:
    """A batch to ask about."""

    source: Source
    proposal: Proposal
    """What is new of it, with its graph where it has one."""
    images: Tensor
    """(B, C, H, W) uint8, as they are asked about."""
    progress: float
    """Of the source, in [0, 1]."""


class SourceScheduler:
    """The sources of a run, and their shares of the questions.

    Args:
        sources: by name, in the order in which lots are drawn.
        shares: by name, schedule of each one's share, followed along the questions; shares are
            normalised. None: it has turns only while it is urgent.
        plan: how much may be asked.
        bank: its samples are never asked about again.
        rng: draws lots and samples.
        record: gets a warning where no source has anything new.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        shares: Mapping[str, Schedule | None],
        plan: Plan,
        bank: Bank,
        rng: torch.Generator,
        record: Record,
    ) -> None:
        self.sources, self.plan, self.bank, self.rng = dict(sources), plan, bank, rng
        self._record = record
        self.shares = {name: share for name, share in shares.items() if share is not None}
        self._progress = ExpectedProgress(self.shares)
        self._least = 2 if plan.batch_statistics else 1

    def next(self, asked: int) -> Scheduled | None:
        """The next batch. A source that has nothing new gives its turn to another.

        Args:
            asked: samples so far.

        Returns:
            None where what is left of the budget pays for no sample of any source, or no source has
            anything new: the student has what was answered until then.

        Raises:
            SettingsError: no source has anything new, and nothing was asked.
        """
        turns, count = self._turns(asked)
        if count < self._least:
            return None
        for name, source in turns.items():
            turn = Turn(count, self.rng, self._progress.of(name, asked / self.plan.budget))
            for _ in range(ATTEMPTS):
                if (proposal := source.propose(turn)) is None:
                    break
                if scheduled := self._new(source, proposal, turn):
                    return scheduled
        text = (
            f"{' and '.join(turns)} drew only samples that were asked about before; "
            "name more priors, or ask for fewer samples"
        )
        if not asked:
            raise SettingsError(text)
        self._record("warned", text=f"no more is asked after {asked:,} samples: {text}")
        return None

    @property
    def steps(self) -> int:
        """Optimisation steps of all sources so far."""
        return sum(source.steps for source in self.sources.values())

    @property
    def facts(self) -> Mapping[str, Any]:
        """What all sources say of themselves in the record of each question."""
        return {name: fact for each in self.sources.values() for name, fact in each.facts.items()}

    def _new(self, source: Source, proposal: Proposal, turn: Turn) -> Scheduled | None:
        """What of a proposal nobody was asked about, if there is any."""
        images = to_bytes(proposal.images)
        fresh = self.bank.fresh(images)
        if int(fresh.sum()) < self._least:
            return None
        if bool(fresh.all()):
            return Scheduled(source, proposal, images, turn.progress)
        return Scheduled(source, proposal.only(fresh), images[fresh], turn.progress)

    def _turns(self, asked: int) -> tuple[dict[str, Source], int]:
        """Who has the turn, in order, and for how many samples."""
        left = self.plan.budget - asked
        if urgent := {name: each for name, each in self.sources.items() if each.urgent}:
            return urgent, self._count(urgent, left)
        scheduled = {name: self.sources[name] for name in self.shares}
        if count := self._count(scheduled, left):
            return self._by_lot(asked), count
        # What is left does not pay for the dearest: the cheapest has it, without a lot.
        cheapest = min(scheduled, key=lambda name: scheduled[name].cost.asked)
        return {cheapest: scheduled[cheapest]}, self._count({cheapest: scheduled[cheapest]}, left)

    def _count(self, sources: Mapping[str, Source], left: int) -> int:
        """Samples of one turn, whoever has it: as many as the dearest may propose."""
        return min(self.plan.batch, left // max(each.cost.asked for each in sources.values()))

    def _by_lot(self, asked: int) -> dict[str, Source]:
        """Who has the turn, by lot, and who comes where that has nothing: larger shares first."""
        names, share = list(self.shares), asked / self.plan.budget
        shares = torch.tensor([self.shares[name](share) for name in names])
        first = int(torch.multinomial(shares, 1, generator=self.rng))
        others = shares.argsort(descending=True, stable=True).tolist()
        order = [first, *(i for i in others if i != first and shares[i] > 0)]
        return {names[i]: self.sources[names[i]] for i in order}
