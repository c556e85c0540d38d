"""The log-linear opinion pool with one offset for each institution and sample, in closed form.

Source: ours; related to the logarithmic opinion pool (Genest and Zidek, 1986).
"""

import torch
from torch import Tensor

FLOOR = -8.0
"""Log-probabilities below this say only "no": a louder no is not more evidence."""
LEAST_WEIGHT = 0.05
"""Weight of a class that an institution has never seen, beside 1 for a class seen averagely."""
SHRINKAGE = 10.0
"""Of offsets, where everybody has the same classes."""
SHRINKAGE_APART = 0.1
"""Where not. An offset is then about the logarithm of the share of the truth that an institution's
classes hold: large, needed, and known by few classes, which a pull of 10 would outweigh."""
RIDGE = 3.0
"""Pull of classes to their mean, where sets differ. What one institution alone says of a class is
noisier than a mean of several, and the loudest noise would win: without the pull, most images of
no class at all were named after a class that one institution alone knows."""


def log_linear_pool(
    logits: Tensor,
    counts: Tensor,
    known: Tensor | None = None,
    *,
    shrinkage: float | None = None,
    trusted: Tensor | None = None,
) -> Tensor:
    """Logarithmic pool with one offset for each institution and image. (B, K).

    Model: ``log p_k(c) = u(c) - a_k``. A teacher that lacks the true class still hands out a whole
    unit of probability among the others; its offset ``a_k`` takes that back. Both are fitted by
    least squares, weighted by class counts,

        sum_kc w_kc (u_c - a_k - log p_k(c))^2 + shrinkage * sum_k a_k^2,

    which is linear in ``log p``: the solution is one fixed matrix for a set of institutions. With
    ``n_kc`` images of class c at institution k, ``w_kc = max(sqrt(n_kc / mean n), 0.05)``: weights
    in proportion to counts let one institution decide a class alone, off the data too. The weight
    of a class that an institution does not have is 0: it is no part of the sum. Classes that two
    institutions share are then what makes the rest of their answers comparable, and where sets
    differ the sum has one more term, ``RIDGE * sum_c (u_c - mean u)^2``.

    One institution alone that has all K classes is not pooled: its log-probabilities come back as
    they are, without the floor.

    Args:
        logits: (T, B, K).
        counts: (T, K) training images of each class at each institution.
        known: (T, K) whether an institution has the class, each had by one at least; None: all do.
        shrinkage: pulls offsets to zero; 0 < shrinkage. At infinity: the count-weighted pool.
            None: `SHRINKAGE`, or `SHRINKAGE_APART` where one of them lacks a class.
        trusted: (T, K) bool: weights are 0 elsewhere, see `fedkd.aggregation.reliability`;
            None: all are.

    Source: ours; related to the logarithmic opinion pool (Genest and Zidek, 1986).
    """
    if known is not None and bool(known.all()):
        known = None  # those who are here have the same classes, whatever who is away has
    if shrinkage is None:
        shrinkage = SHRINKAGE if known is None else SHRINKAGE_APART
    log_p = logits.log_softmax(-1)
    if len(log_p) == 1 and known is None:
        return log_p[0]  # the fit is exact, with an offset of 0, and a floor would only lose
    log_p = log_p.clamp_min(FLOOR)
    return _pooled(log_p, _pool_matrix(counts.double(), known, shrinkage, trusted))


def pooled(log_p: Tensor, counts: Tensor, trusted: Tensor, average: Tensor) -> Tensor:
    """`log_linear_pool` of (T, B, K) log-probabilities above `FLOOR`; for whoever judges them.

    Args:
        log_p: clamped.
        counts: (T, K).
        trusted: (T, K) bool: weights are 0 elsewhere.
        average: count of a class that weighs 1.
    """
    return _pooled(log_p, _pool_matrix(counts.double(), None, SHRINKAGE, trusted, average))


def _pooled(log_p: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ctk,tbk->bc", matrix.to(log_p), log_p)


def _pool_matrix(
    counts: Tensor,
    known: Tensor | None,
    shrinkage: float,
    trusted: Tensor | None = None,
    average: Tensor | None = None,
) -> Tensor:
    """The matrix M with u_c = sum_tk M[c, t, k] log p_t(k). (K, T, K).

    Each offset stands in the normal equations with itself and the classes alone, so it is put in
    terms of the classes first. What is left to solve is (K, K), however many institutions there
    are.
    """
    classes = counts.shape[1]
    had = torch.ones_like(counts, dtype=torch.bool) if known is None else known
    if average is None:
        average = counts[had].mean().clamp_min(1.0)
    weight = torch.sqrt(counts / average).clamp_min(LEAST_WEIGHT) * had  # (T, K)
    if trusted is not None:
        weight = weight * trusted
        # Of a class that nobody is trusted on, everybody says something, and very little.
        weight += 1e-3 * had * (weight.sum(0) == 0)
    share = weight / (weight.sum(1, keepdim=True) + shrinkage)  # a_t = sum_k share_tk (u_k - log p)
    normal = torch.diag(weight.sum(0)) - share.T @ weight
    if known is not None:
        normal += RIDGE * (torch.eye(classes) - 1 / classes)
    right = (torch.diag_embed(weight) - share[:, :, None] * weight[:, None]).transpose(0, 1)
    solution: Tensor = torch.linalg.solve(normal, right.flatten(1))
    return solution.view(right.shape)
