"""Fusion of embeddings: rows whose Gram matrix is the mean relation of the institutions.

A relation matrix R_k (B, B) of an institution whose embedding is D_k wide has rank D_k, so it is
F_k F_k^T with F_k (B, D_k), and the mean over T institutions is F F^T with

    F = [F_1, ..., F_T] / sqrt(T)        (B, D_1 + ... + D_T)

So a target is a row for each sample, as of classes; but F_k is known up to a rotation that differs
from question to question. Rows of one question alone may be compared.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.protocol import Answers, Card, Signal

MEAN_RELATIONS = "mean_relations"
MEAN_FEATURES = "mean_features"
EMBEDDING_RULES = (MEAN_RELATIONS, MEAN_FEATURES)
"""``mean_features`` averages the rows themselves: right for one institution; of several, whose
spaces do not match, a control."""


def relation_factor(relations: Tensor, width: int) -> Tensor:
    """The best F (B, width) by which F F^T is R (B, B), symmetric; columns beyond B are zero."""
    bounded = relations.double().clamp(-1.0, 1.0)  # whatever came
    symmetric = (bounded + bounded.T) / 2
    values, vectors = torch.linalg.eigh(symmetric)
    kept = min(width, len(relations))
    factor = vectors[:, -kept:] * values[-kept:].clamp_min(0.0).sqrt()
    return torch.nn.functional.pad(factor, (0, width - kept)).float()


def _rows(value: Tensor, width: int) -> Tensor:
    del width
    return value.float()


ROWS: Mapping[Signal, Callable[[Tensor, int], Tensor]] = {
    Signal.FEATURES: _rows,
    Signal.RELATIONS: relation_factor,
}
"""How the answer of an institution becomes a row (B, D_k) for each sample."""


def as_outputs(answers: Answers, signal: Signal, cards: Sequence[Card]) -> Answers:
    """Replies with a row for each sample under the signal of logits, whatever was asked for them.

    Args:
        answers: to an `Ask` of ``signal``.
        signal: that targets are made of; logits stay as they are.
        cards: of all institutions.
    """
    if signal not in ROWS:
        return answers
    width = {card.name: card.classes for card in cards}
    return {
        name: replace(
            reply,
            signals={
                **reply.signals,
                Signal.LOGITS: ROWS[signal](reply.signals[signal], width[name]),
            },
        )
        for name, reply in answers.items()
    }


@dataclass(frozen=True)
class EmbeddingFusion:
    """A rule and the columns of each institution; see `fedkd.core.source_types.Fusion`."""

    rule: str
    widths: Mapping[str, int]
    """D_k by institution, in the order of the cards."""

    def __call__(self, signals: Mapping[str, Mapping[Signal, Tensor]]) -> dict[Signal, Tensor]:
        """Fuse rows (B, D_k) by institution into (B, D_1 + ... + D_T).

        Columns of an institution that is away are zero, and the others weigh more.
        """
        own = {n: signals[n][Signal.LOGITS].float() for n in self.widths if n in signals}
        first = next(iter(own.values()))
        if self.rule == MEAN_FEATURES:
            mean = torch.stack(list(own.values())).mean(0)
            missing = sum(self.widths.values()) - mean.shape[1]
            return {Signal.LOGITS: torch.nn.functional.pad(mean, (0, missing))}
        blocks = [
            own.get(name, first.new_zeros(len(first), width)) for name, width in self.widths.items()
        ]
        return {Signal.LOGITS: torch.cat(blocks, 1) / math.sqrt(len(own))}

    def of(self, answers: Answers) -> dict[Signal, Tensor]:
        """`__call__` on replies."""
        return self({name: reply.signals for name, reply in answers.items()})


def build_embedding_fusion(rule: str, cards: Sequence[Card]) -> EmbeddingFusion:
    """The fusion of these institutions by this rule; ``auto`` is ``mean_relations``.

    Raises:
        SettingsError: an unknown rule, or a mean of features of different widths.
    """
    rule = MEAN_RELATIONS if rule == "auto" else rule
    if rule not in EMBEDDING_RULES:
        raise SettingsError(
            f"unknown rule {rule!r} for embeddings; choose auto or one of "
            f"{', '.join(EMBEDDING_RULES)}"
        )
    widths = {card.name: card.classes for card in cards}
    if rule == MEAN_FEATURES and len(set(widths.values())) > 1:
        raise SettingsError(
            "embeddings of different widths have no mean; let the method ask for relations"
        )
    return EmbeddingFusion(rule, widths)
