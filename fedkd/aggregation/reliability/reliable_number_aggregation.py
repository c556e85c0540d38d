"""Aggregation of numbers that leaves out whom the answers prove unreliable.

Reliability is estimated again and again while a run asks, see `number_reliability`. Where it
changes, the targets of everything that is banked are fused again. An institution that turns is seen
once it is wrong about enough of all.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedkd.aggregation.number_fusion import UNKNOWN, NumberFusion, build_number_fusion
from fedkd.aggregation.reliability.number_reliability import estimate_number_reliability
from fedkd.aggregation.reliability.periodic_reliability import (
    LEAST_SAMPLES,
    WINDOW,
    PeriodicReliability,
)
from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import Record
from fedkd.protocol import Card, LabelSpaces


class ReliableNumberAggregation(PeriodicReliability):
    """Fuses numbers by the default rule, without whom the answers prove unreliable.

    Args:
        capacity: of the bank; None: it keeps all.
        record: gets every estimate.
    """

    def __init__(self, capacity: int | None, record: Record | None = None) -> None:
        super().__init__("auto", capacity, record, silence=UNKNOWN)
        self._trusted: dict[str, tuple[bool, ...]] = {}

    def fusion(self, cards: Sequence[Card]) -> NumberFusion:
        """Of whoever takes part by now."""
        self._cards = tuple(cards)
        return replace(build_number_fusion(self.rule, self._cards), trusted=self._trusted)

    @property
    def _estimate_so_far(self) -> object:
        return self._trusted

    def _estimate(self) -> None:
        """Estimate reliability of whoever answered enough of what is banked."""
        count = len(self._kept)
        labels = LabelSpaces.of(self._cards)
        names, kept = self._kept.common_rows(
            [card.name for card in self._cards],
            torch.linspace(0, count - 1, min(WINDOW, count)).long(),
            LEAST_SAMPLES // 2,
        )
        if not names:
            return
        spread = [labels.to_union(name, kept[name], torch.nan) for name in names]
        values = torch.stack(spread).clamp(0.0, 1.0)
        known = ~values[:, 0].isnan()
        found = estimate_number_reliability(values, known)
        left_out = known & ~found.trusted
        self._trusted = {
            name: tuple(found.trusted[at][torch.tensor(labels.indices[name])].tolist())
            for at, name in enumerate(names)
            if bool(left_out[at].any())
        }
        if self._record is not None:
            agreement = [None if a != a else round(a, 4) for a in found.agreement.tolist()]
            share = found.trusted.sum(1) / known.sum(1).clamp_min(1)
            self._record(
                "reliability",
                samples=self._heard,
                agreement=dict(zip(names, agreement, strict=True)),
                weight=dict(zip(names, [round(w, 4) for w in share.tolist()], strict=True)),
                left_out={
                    name: [labels.names[k] for k in left_out[at].nonzero()[:, 0].tolist()]
                    for at, name in enumerate(names)
                    if name in self._trusted
                },
            )

    def exclude(self, names: Collection[str], cards: Sequence[Card]) -> Tensor | None:
        """As `PeriodicReliability`; the estimate so far was made with answers that are gone."""
        self._trusted = {}
        return super().exclude(names, cards)

    def state(self) -> State:
        """All predictions that are kept, and the last estimate."""
        numbers = {
            "trusted": {name: list(own) for name, own in self._trusted.items()},
            "heard": self._heard,
            "estimated": self._estimated,
        }
        return State(super().state().tensors, numbers)

    def restore(self, state: State) -> None:
        """Fuse again as when ``state`` was taken."""
        super().restore(state)
        numbers = state.numbers
        self._trusted = {name: tuple(own) for name, own in numbers["trusted"].items()}
        self._heard, self._estimated = numbers["heard"], numbers["estimated"]
