"""Class-adaptive confidence thresholds: a rare class gets a lower one than a frequent class."""

from torch import Tensor

CEILING = 0.95
"""Threshold of the most frequent class."""


def class_thresholds(counts: Tensor, ceiling: float = CEILING) -> Tensor:
    """``t_c = ceiling * b_c / (2 - b_c)``, b_c = samples of class c / samples of the largest class.

    Args:
        counts: (K,) samples of each predicted class.
        ceiling: in (0, 1].

    Returns:
        (K,) in [0, ceiling]; 0 for a class that nobody predicts.

    Source: KD3 (Tang et al., ICCV 2023), after FlexMatch (Zhang et al., NeurIPS 2021).
    """
    share = counts / counts.max().clamp_min(1)
    return ceiling * share / (2.0 - share)


def threshold_ratios(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """Confidence over the threshold of the predicted class: above 1 is kept. (N, K), (K,) -> (N,).

    Infinite where the threshold is 0.
    """
    confidence, named = probabilities.max(1)
    return confidence / thresholds[named]
