"""Sample selection: which answered samples enter the bank, by the confidence of their targets."""

import math

import torch
from torch import Tensor

from fedkd.core.interfaces import Selection
from fedkd.errors import SettingsError

ITERATIONS = 10
"""Most steps of EM."""
TOLERANCE = 1e-2
"""EM ends where the mean log-likelihood gains less in a step."""
REGULARISER = 5e-4
"""Added to both variances, so that no component collapses onto one value."""


def confident(threshold: float = 0.5) -> Selection:
    """Images of which the teacher is as sure as of the surer of two groups in the batch.

    The cross-entropy of each answer with its own argmax, scaled to [0, 1] over the batch, is taken
    to be drawn from two Gaussians. Kept is what belongs to the lower one with more than
    ``threshold``, and always the surest image. A batch without any difference is kept whole.

    Raises:
        SettingsError: a threshold outside [0, 1).

    Source: DivideMix (Li et al., ICLR 2020), which TA-DFKD (arXiv 2402.12406) turns to teachers.
    """
    if not 0 <= threshold < 1:
        raise SettingsError(f"expected a threshold in [0, 1), got {threshold}")

    def select(target: Tensor) -> Tensor:
        loss = -target.double().log_softmax(1).max(1).values  # (B,)
        low, high = loss.min(), loss.max()
        if not float(high - low) > 0:
            return torch.ones(len(loss), dtype=torch.bool, device=loss.device)
        kept = lower_of_two((loss - low) / (high - low)) > threshold
        kept[loss.argmin()] = True
        return kept

    return select


def lower_of_two(values: Tensor) -> Tensor:
    """Posterior of the lower component of two Gaussians fitted to ``values`` (B,), by EM. (B,).

    It begins where two means split the values best, so that it depends on nothing random.
    """
    x = values[:, None]  # (B, 1)
    share = _split(values)  # (B, 2)
    bound = -math.inf
    for _ in range(ITERATIONS):
        log_joint = _log_joint(x, share)
        total = log_joint.logsumexp(1, keepdim=True)
        share = (log_joint - total).exp()
        before, bound = bound, float(total.mean())
        if abs(bound - before) < TOLERANCE:
            break
    means = (share * x).sum(0) / share.sum(0)
    share = (_log_joint(x, share)).softmax(1)
    return share[:, int(means.argmin())]


def _log_joint(x: Tensor, share: Tensor) -> Tensor:
    """Log of weight times density under the components that ``share`` (B, 2) implies. (B, 2)."""
    mass = share.sum(0) + 10 * torch.finfo(share.dtype).eps
    mean = (share * x).sum(0) / mass
    variance = (share * (x - mean) ** 2).sum(0) / mass + REGULARISER
    normal = -0.5 * (torch.log(2 * math.pi * variance) + (x - mean) ** 2 / variance)
    return normal + torch.log(mass / mass.sum())


def _split(values: Tensor) -> Tensor:
    """Two means in one dimension, exactly: the cut with the least sum of squares. (B, 2)."""
    ordered = values.sort().values
    count = torch.arange(1, len(values), dtype=values.dtype, device=values.device)
    below = ordered.cumsum(0)[:-1]
    above = ordered.sum() - below
    explained = below**2 / count + above**2 / (len(values) - count)
    at = int(explained.argmax())
    upper = (values > (ordered[at] + ordered[at + 1]) / 2).to(values.dtype)
    return torch.stack([1 - upper, upper], 1)
