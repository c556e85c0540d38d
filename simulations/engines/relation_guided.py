"""Groups by relations: spectral clustering of a relation matrix, and whether institutions agree.

Z. Kang, X. Lu, J. Liang, K. Bai, Z. Xu. "Relation-guided representation learning." Neural Networks
2020, arXiv 2007.05742. An auto-encoder learns a matrix C by which samples express each other, and
spectral clustering of (|C| + |C|^T) / 2 gives the groups.

Here the matrix is the mean relation of institutions, and nothing is learned: it is an evaluation,
without labels, of whether institutions see the same groups. What was seen: the released AEnet.py.

Departures
  The matrix is R, of cosines, not C; negative cosines are unlike samples and become 0, not |R|.
  The auto-encoder, its reconstruction and Laplacian terms are left out.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

Groups = NDArray[np.int64]


def groups_of(relations: Tensor, count: int, seed: int = 0) -> Groups:
    """The groups of N samples by spectral clustering of their relations.

    Args:
        relations: (N, N) cosines, N > count.
        count: of groups, >= 2.
        seed: of the clustering.

    Returns:
        (N,) in 0..count-1.
    """
    from sklearn.cluster import SpectralClustering

    affinity = relations.clamp_min(0.0).double().numpy()
    clustering = SpectralClustering(count, affinity="precomputed", random_state=seed)
    found: Groups = clustering.fit_predict((affinity + affinity.T) / 2).astype(np.int64)
    return found


def clustering_accuracy(groups: Groups, truth: Groups) -> float:
    """Share of samples in the group of their class, under the best matching of groups, in [0, 1].

    Args:
        groups: (N,) from 0.
        truth: (N,) classes from 0.
    """
    size = int(max(groups.max(), truth.max())) + 1
    together = np.zeros((size, size), np.int64)
    np.add.at(together, (groups, truth), 1)
    rows, columns = linear_sum_assignment(together, maximize=True)
    return float(together[rows, columns].sum() / len(groups))


def relation_guided(
    relations: Mapping[str, Tensor], count: int, truth: Tensor | None = None, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Groups by each relation matrix, compared with those by the first.

    Args:
        relations: (N, N) by name; the first is the mean of the institutions.
        count: of groups.
        truth: (N,) classes; None: unknown.
        seed: of the clustering.

    Returns:
        By name ``same_groups``, the adjusted Rand index to the groups by the first, which needs no
        labels: 1 where they are the same, about 0 by chance; and ``accuracy`` where classes are
        known, see `clustering_accuracy`.
    """
    from sklearn.metrics import adjusted_rand_score

    groups = {name: groups_of(own, count, seed) for name, own in relations.items()}
    first = next(iter(groups.values()))
    found = {
        name: {"same_groups": float(adjusted_rand_score(first, own))}
        for name, own in groups.items()
    }
    if truth is not None:
        for name, own in groups.items():
            found[name]["accuracy"] = clustering_accuracy(own, truth.numpy())
    return found
