"""A teacher whose outputs are an embedding: it answers features and relations, and no logits."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedkd.models.teacher import Teacher, require_signals
from fedkd.protocol import Signal, cosine_relations

OUTPUTS = frozenset({Signal.LOGITS})
"""What the teacher underneath is asked for."""


class EmbeddingTeacher:
    """Another teacher, whose outputs (B, K) are an embedding.

    FEATURES are these outputs, and RELATIONS their cosines; its last layer is part of the encoder,
    unlike that of a classifier. BN_GAP is what it was.

    Args:
        outputs: answers the embedding as logits.
    """

    def __init__(self, outputs: Teacher) -> None:
        self._outputs = outputs

    @property
    def classes(self) -> int:
        """K, width of the embedding."""
        return self._outputs.classes

    @property
    def signals(self) -> frozenset[Signal]:
        """See `Teacher.signals`."""
        kept = self._outputs.signals & {Signal.BN_GAP}
        return frozenset({Signal.FEATURES, Signal.RELATIONS}) | kept

    @property
    def differentiable(self) -> bool:
        """See `Teacher.differentiable`."""
        return self._outputs.differentiable

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `Teacher.ask`."""
        require_signals(signals, self.signals)
        found = self._outputs.ask(images, OUTPUTS | (signals & {Signal.BN_GAP}))
        features = found.pop(Signal.LOGITS)
        found[Signal.FEATURES] = features
        if Signal.RELATIONS in signals:
            found[Signal.RELATIONS] = cosine_relations(features)
        return {signal: found[signal] for signal in signals}

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """See `Teacher.pull_back`; relations are pulled back to the embedding here."""
        require_signals(frozenset(cotangents), self.signals)
        own: dict[Signal, Tensor] = {s: c for s, c in cotangents.items() if s is Signal.BN_GAP}
        if at := cotangents.keys() - own.keys():
            features = self._outputs.ask(images, OUTPUTS)[Signal.LOGITS].requires_grad_()
            with torch.enable_grad():
                values = {Signal.FEATURES: features, Signal.RELATIONS: cosine_relations(features)}
                total = torch.stack([(cotangents[s] * values[s]).sum() for s in sorted(at)]).sum()
                (own[Signal.LOGITS],) = torch.autograd.grad(total, features)
        return self._outputs.pull_back(images, own)
