"""Aggregation by a fusion rule that leaves out whom the answers prove unreliable.

Reliability is estimated again and again while a run asks, see `class_reliability`: over all that is
banked, of which the majority of the latest estimates counts, and block by block for an institution
whose answers change, see `change_detection`. Where an estimate differs from the one before, the
targets of everything that is banked are fused again.
"""

import statistics
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from fedkd.aggregation.fusion_rules import RuleFusion, cached_class_fusion
from fedkd.aggregation.reliability.change_detection import changed_institutions
from fedkd.aggregation.reliability.class_reliability import Reliability, estimate_reliability
from fedkd.aggregation.reliability.periodic_reliability import (
    LEAST_SAMPLES,
    WINDOW,
    PeriodicReliability,
)
from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import Record
from fedkd.core.run_plan import AUTO, ClassPrior
from fedkd.protocol import Card, LabelSpaces

LATEST = 5
"""Estimates of which the majority counts. Each is made from a part of the answers; who stands near
a threshold would come and go, and a student whose targets go to and fro learns neither of them."""
BLOCK = 512
"""Samples in one block, of those that are held against one another."""
EARLIER = 4
"""Blocks before the last, evenly from the first on."""
Judgement: TypeAlias = tuple[tuple[bool, ...], tuple[float, ...]]
"""Of an institution: whether each of its classes is trusted, and how far each claim is granted."""


class ReliabilityWeightedAggregation(PeriodicReliability):
    """Fuses by a rule, without whom the answers prove unreliable.

    Args:
        rule: its name.
        capacity: of the bank; None: it keeps all.
        record: gets every estimate.
        prior: see `RuleAggregation`.
        silence: likewise.
    """

    def __init__(
        self,
        rule: str,
        capacity: int | None,
        record: Record | None = None,
        *,
        prior: ClassPrior = AUTO,
        silence: float = 0.0,
    ) -> None:
        super().__init__(rule, capacity, record, prior=prior, silence=silence)
        self._trusted: dict[str, tuple[bool, ...]] = {}
        self._shown: dict[str, tuple[float, ...]] = {}
        self._suspects: frozenset[str] = frozenset()
        self._latest: deque[Mapping[str, Judgement]] = deque(maxlen=LATEST)

    def fusion(self, cards: Sequence[Card]) -> RuleFusion:
        """Of whoever takes part by now."""
        self._cards = tuple(cards)
        fusion = cached_class_fusion(self.rule, self._cards, self.prior)
        if not self._trusted:
            return fusion
        counts, told = self._granted(fusion.counts), self._granted(fusion.told)
        return replace(fusion, counts=counts, told=told, trusted=self._trusted)

    def _granted(self, counts: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
        """Class counts by institution, as far as its answers show them."""
        return {
            name: tuple(c * s for c, s in zip(own, self._shown[name], strict=True))
            if name in self._shown
            else own
            for name, own in counts.items()
        }

    @property
    def _estimate_so_far(self) -> object:
        return self._trusted, self._shown

    def _estimate(self) -> None:
        """Estimate reliability, of all that is banked and of what came last."""
        fusion = cached_class_fusion(self.rule, self._cards, self.prior)
        labels = LabelSpaces.of(self._cards)
        count = len(self._kept)
        whole = self._judged(
            torch.linspace(0, count - 1, min(WINDOW, count)).long(), fusion, labels
        )
        if whole is None:
            return
        names, found = whole
        own = {name: torch.tensor(labels.indices[name]) for name in names}
        self._latest.append(
            {
                name: (tuple(trusted[own[name]].tolist()), tuple(shown[own[name]].tolist()))
                for name, trusted, shown in zip(names, found.trusted, found.shown, strict=True)
            }
        )
        majority = {name: self._majority(name) for name in names}
        changed = self._changed(fusion, labels)
        for name in changed & self._suspects:  # twice: one block may be a bad sample
            majority[name] = tuple(False for _ in own[name]), majority[name][1]
        self._suspects = frozenset(changed)
        doubted = any(not all(trusted) or min(shown) < 1 for trusted, shown in majority.values())
        self._trusted = {name: each[0] for name, each in majority.items() if doubted}
        self._shown = {name: each[1] for name, each in majority.items() if doubted}
        if self._record is not None:
            agreement = dict(zip(names, found.agreement.tolist(), strict=True))
            self._record("reliability", **self._facts(majority, agreement, labels))

    def _majority(self, name: str) -> Judgement:
        """What most of the latest estimates say of an institution, class by class."""
        found = [estimate[name] for estimate in self._latest if name in estimate]
        trusted = (
            2 * sum(votes) >= len(votes) for votes in zip(*(t for t, _ in found), strict=True)
        )
        shown = (
            statistics.median_low(shares) for shares in zip(*(s for _, s in found), strict=True)
        )
        return tuple(trusted), tuple(shown)

    def _judged(
        self, rows: Tensor, fusion: RuleFusion, labels: LabelSpaces
    ) -> tuple[list[str], Reliability] | None:
        """Those who answered enough of these rows, and their reliability there; None: too few."""
        found = self._answers(rows, LEAST_SAMPLES // 2, fusion, labels)
        return None if found is None else (found[0], estimate_reliability(*found[1]))

    def _changed(self, fusion: RuleFusion, labels: LabelSpaces) -> set[str]:
        """Whose answers changed for the worse, block by block of those who answered enough."""
        count = len(self._kept)
        if count < 2 * BLOCK:
            return set()
        starts = [*torch.linspace(0, count - 2 * BLOCK, EARLIER).long().tolist(), count - BLOCK]
        rows = [torch.arange(start, start + BLOCK) for start in dict.fromkeys(starts)]
        found = self._answers(torch.cat(rows), len(rows) * BLOCK // 2, fusion, labels)
        if found is None:
            return set()
        names, (logits, counts, known) = found
        blocks = logits.chunk(len(rows), 1)
        return {names[k] for k in changed_institutions(blocks, counts, known)}

    def _answers(
        self, rows: Tensor, least: int, fusion: RuleFusion, labels: LabelSpaces
    ) -> tuple[list[str], tuple[Tensor, Tensor, Tensor]] | None:
        """Names of those who answered ``least`` of these rows, with the arguments of an estimate.

        Returns:
            (T, N, K) logits, (T, K) counts as told, (T, K) known classes; None: fewer than three.
        """
        names, kept = self._kept.common_rows([card.name for card in self._cards], rows, least)
        if len(names) < 3:
            return None
        logits = torch.stack([labels.to_union(n, kept[n], -torch.inf) for n in names])
        ones = {name: torch.ones(1, len(labels.indices[name])) for name in names}
        known = torch.cat([labels.to_union(n, ones[n], 0.0) for n in names]).bool()
        told = {n: torch.tensor([fusion.counts[n]]) if fusion.counts else ones[n] for n in names}
        counts = torch.cat([labels.to_union(n, told[n].float(), 0.0) for n in names])
        return names, (logits, counts, known)

    def _facts(
        self,
        majority: Mapping[str, Judgement],
        agreement: Mapping[str, float],
        labels: LabelSpaces,
    ) -> dict[str, object]:
        """What the record says of an estimate."""
        return {
            "samples": self._heard,
            "agreement": {n: None if a != a else round(a, 4) for n, a in agreement.items()},
            "weight": {
                name: round(statistics.fmean(t * s for t, s in zip(*own, strict=True)), 4)
                for name, own in majority.items()
            },
            "left_out": {
                name: [
                    labels.names[c]
                    for c, kept in zip(labels.indices[name], trusted, strict=True)
                    if not kept
                ]
                for name, (trusted, _) in majority.items()
                if not all(trusted)
            },
        }

    def exclude(self, names: Collection[str], cards: Sequence[Card]) -> Tensor | None:
        """As `PeriodicReliability`; earlier estimates were made with answers that are gone."""
        self._latest.clear()
        self._suspects = frozenset()
        self._trusted, self._shown = {}, {}
        return super().exclude(names, cards)

    def state(self) -> State:
        """All logits that are kept, and the last estimate."""
        numbers = {
            "trusted": {name: list(own) for name, own in self._trusted.items()},
            "shown": {name: list(own) for name, own in self._shown.items()},
            "heard": self._heard,
            "estimated": self._estimated,
            "suspects": sorted(self._suspects),
            "latest": [{n: list(map(list, own)) for n, own in e.items()} for e in self._latest],
        }
        return State(super().state().tensors, numbers)

    def restore(self, state: State) -> None:
        """Fuse again as when ``state`` was taken."""
        super().restore(state)
        numbers = state.numbers
        self._trusted = {name: tuple(own) for name, own in numbers["trusted"].items()}
        self._shown = {name: tuple(own) for name, own in numbers["shown"].items()}
        self._heard, self._estimated = numbers["heard"], numbers["estimated"]
        self._suspects = frozenset(numbers["suspects"])
        self._latest.clear()
        self._latest.extend(
            {name: (tuple(trusted), tuple(shown)) for name, (trusted, shown) in each.items()}
            for each in numbers["latest"]
        )
