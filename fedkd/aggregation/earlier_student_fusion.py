"""Fusion of an earlier student's answers with those of institutions, each over its own classes.

The institutions' answers are fused by a rule among themselves, over their classes; those of the
earlier student are as they are. Two slices without a common class have no common level: "centred"
gives both a mean of zero, "raw" leaves them as they were answered. Where they share classes, the
institutions' slice is moved so that both have the same mean over these, and each of these is the
mean of both.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fedkd.aggregation.fusion_rule_spec import ByRule
from fedkd.core.bank import Bank
from fedkd.core.checkpoint_state import State
from fedkd.core.earlier_student import EarlierStudent
from fedkd.core.interfaces import Aggregation, Context
from fedkd.core.source_types import Fusion, Proposal
from fedkd.errors import SettingsError
from fedkd.protocol import Answers, Ask, Card, LabelSpaces, Signal

Level: TypeAlias = Literal["centred", "raw"]
ROWS = 4096
"""Banked samples that the earlier student is asked about at once."""


@dataclass(frozen=True)
class EarlierStudentFusion:
    """The fusion of an earlier student's answers with those of institutions.

    Attributes:
        earlier: name of the earlier student.
        institutions: fuses the others, over their own classes.
        own: label spaces of the institutions alone.
        labels: of all.
        level: of the two slices, where they share no class.
    """

    earlier: str
    institutions: Fusion
    own: LabelSpaces
    labels: LabelSpaces
    level: Level = "centred"

    def __call__(self, signals: Mapping[str, Mapping[Signal, Tensor]]) -> dict[Signal, Tensor]:
        """Logits (B, K), and the mean of the batch-norm gaps, where they were asked for."""
        others = {name: own for name, own in signals.items() if name != self.earlier}
        fused = self.institutions(others)
        old = signals[self.earlier]
        fused[Signal.LOGITS] = self.joined(old[Signal.LOGITS].float(), fused[Signal.LOGITS])
        if Signal.BN_GAP in old:
            gaps = [
                own[Signal.BN_GAP] for _, own in sorted(signals.items()) if Signal.BN_GAP in own
            ]
            fused[Signal.BN_GAP] = torch.stack(gaps).mean()
        return fused

    def of(self, answers: Answers) -> dict[Signal, Tensor]:
        """`__call__` on replies."""
        return self({name: reply.signals for name, reply in answers.items()})

    def joined(self, old: Tensor, new: Tensor) -> Tensor:
        """(B, K_old) and (B, K_new) -> (B, K)."""
        new = new.to(old.device)
        old_at = self.labels.indices[self.earlier]
        new_at = tuple(self.labels.names.index(name) for name in self.own.names)
        shared = sorted(set(old_at) & set(new_at))
        if shared:
            in_old = [old_at.index(place) for place in shared]
            in_new = [new_at.index(place) for place in shared]
            apart = (old[:, in_old] - new[:, in_new]).mean(1, keepdim=True)
            new = new + apart
            new = new.index_copy(
                1,
                torch.tensor(in_new, device=new.device),
                (old[:, in_old] + new[:, in_new]) / 2,
            )
        elif self.level == "centred":
            old = old - old.mean(1, keepdim=True)
            new = new - new.mean(1, keepdim=True)
        joined = old.new_zeros(len(old), len(self.labels.names))
        joined = joined.index_copy(1, torch.tensor(old_at, device=old.device), old)
        return joined.index_copy(1, torch.tensor(new_at, device=old.device), new)


def fuse_with_earlier_student(
    earlier: Card, cards: Sequence[Card], institutions: Fusion, level: Level = "centred"
) -> EarlierStudentFusion:
    """The fusion of ``earlier`` with the institutions of ``cards``, fused by ``institutions``."""
    own, labels = LabelSpaces.of(cards), LabelSpaces.of([earlier, *cards])
    return EarlierStudentFusion(earlier.name, institutions, own, labels, level)


@dataclass(frozen=True, eq=False)
class WithEarlierStudent:
    """The settings.

    Attributes:
        institutions: how the institutions' answers are fused among themselves.
        level: see above.
    """

    institutions: ByRule = field(default_factory=ByRule)
    level: Level = "centred"

    def rule_for(self, planned: str) -> str:
        """The institutions'."""
        return self.institutions.rule_for(planned)

    def with_rule(self, rule: str) -> "WithEarlierStudent":
        """The same with that rule for the institutions."""
        return replace(self, institutions=self.institutions.with_rule(rule))

    def build(self, context: Context) -> "EarlierStudentAggregation":
        """The part.

        Raises:
            SettingsError: the run begins anew.
        """
        if context.earlier is None:
            raise SettingsError(
                "this method goes on with the student of a finished run; name its folder: "
                "--grow RUN"
            )
        institutions = self.institutions.build(context)
        return EarlierStudentAggregation(institutions, context.earlier, context.bank, self.level)


class EarlierStudentAggregation:
    """See `fedkd.core.interfaces.Aggregation`; all but the earlier student's part is another's.

    Args:
        institutions: of their answers.
        earlier: asked again, at no cost, where targets are made again.
        bank: whose samples it is then asked about.
        level: of the two slices.
    """

    def __init__(
        self, institutions: Aggregation, earlier: EarlierStudent, bank: Bank, level: Level
    ) -> None:
        self._institutions, self._earlier = institutions, earlier
        self._bank, self._level = bank, level
        self._cards: list[Card] = []

    def fusion(self, cards: Sequence[Card]) -> EarlierStudentFusion:
        """Of whoever takes part by now, the earlier student among them."""
        card = self._earlier.card
        self._cards = [each for each in cards if each.name != card.name]
        return fuse_with_earlier_student(
            card, self._cards, self._institutions.fusion(self._cards), self._level
        )

    def hear(
        self, answers: Answers, labels: LabelSpaces, selected: Tensor | None, proposal: Proposal
    ) -> None:
        """Answers of the institutions."""
        theirs = {name: reply for name, reply in answers.items() if name != self._earlier.card.name}
        self._institutions.hear(theirs, LabelSpaces.of(self._cards), selected, proposal)

    def improve(self, rng: torch.Generator) -> Tensor | None:
        """New targets where the institutions' slice is fused anew."""
        return self._joined(self._institutions.improve(rng))

    def exclude(self, names: Collection[str], cards: Sequence[Card]) -> Tensor | None:
        """New targets without the answers of ``names``."""
        self.fusion(cards)
        return self._joined(self._institutions.exclude(names, self._cards))

    def _joined(self, targets: Tensor | None) -> Tensor | None:
        """(N, K_new) of all that is banked -> (N, K)."""
        if targets is None:
            return None
        fusion = self.fusion(self._cards)
        images, _ = self._bank.history()
        pieces = [
            fusion.joined(self._earlier.answer(Ask(some)).signals[Signal.LOGITS], new)
            for some, new in zip(
                torch.split(images.cpu(), ROWS), torch.split(targets, ROWS), strict=True
            )
        ]
        return torch.cat(pieces)

    def state(self) -> State:
        """Of the institutions' part; the earlier student never changes."""
        return self._institutions.state()

    def restore(self, state: State) -> None:
        """Fuse again as when ``state`` was taken."""
        self._institutions.restore(state)
