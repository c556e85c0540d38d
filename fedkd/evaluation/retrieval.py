"""Retrieval scores of embeddings: recall at k, and how far two sets of relations agree."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fedkd.protocol import cosine_relations

RANKS = (1, 5)
"""The k of recall at k that are told."""


def cross_relations(queries: Tensor, gallery: Tensor) -> Tensor:
    """Cosines (Q, G) between embeddings (Q, D) and (G, D)."""
    unit = [torch.nn.functional.normalize(each.float(), dim=1) for each in (queries, gallery)]
    return unit[0] @ unit[1].T


def recall_at(
    relations: Tensor, truth: Tensor, gallery_truth: Tensor, ranks: Sequence[int] = RANKS
) -> dict[str, float | None]:
    """Share of queries with a gallery row of their class among the k most alike.

    Args:
        relations: (Q, G), the greater the more alike.
        truth: (Q,) classes of the queries.
        gallery_truth: (G,) classes of the gallery.
        ranks: each k, at most G.

    Returns:
        ``recall_at_1`` and so on, in [0, 1]; None where there is nothing to find.
    """
    if not relations.numel():
        return {f"recall_at_{k}": None for k in ranks}
    order = relations.topk(min(max(ranks), relations.shape[1]), dim=1).indices
    right = gallery_truth[order] == truth[:, None]
    return {f"recall_at_{k}": float(right[:, :k].any(1).float().mean()) for k in ranks}


def recall_among(embeddings: Tensor, truth: Tensor) -> dict[str, float | None]:
    """`recall_at` of (N, D) embeddings, where each is a query and all others are the gallery."""
    if len(embeddings) < 2:
        return {f"recall_at_{k}": None for k in RANKS}
    relations = cosine_relations(embeddings.float()).fill_diagonal_(-torch.inf)
    found = recall_at(relations, truth, truth)
    return {f"recall_at_{k}": found[f"recall_at_{k}"] if k < len(truth) else None for k in RANKS}


def relation_error(one: Tensor, other: Tensor) -> float | None:
    """Root mean squared difference of relations off the diagonal; None of a single sample."""
    if len(one) < 2:
        return None
    apart = ~torch.eye(len(one), dtype=torch.bool)
    return float((one - other)[apart].double().square().mean().sqrt())


def relation_correlation(one: Tensor, other: Tensor) -> float | None:
    """Pearson correlation of relations (N, N) off the diagonal; None where they are constant."""
    upper = torch.triu_indices(len(one), len(one), 1)
    pair = torch.stack([each[upper[0], upper[1]].double() for each in (one, other)])
    if pair.shape[1] < 2 or not bool((pair.std(1) > 0).all()):
        return None
    return float(torch.corrcoef(pair)[0, 1])
