"""Scores of a student on private test samples: of numbers, and of an embedding."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fedkd.errors import DataError
from fedkd.evaluation import predict_logits, recall_among
from fedkd.tasks import NumberSums, number_sums


def found_among(model: nn.Module, samples: Tensor, truth: Tensor) -> tuple[int, int]:
    """Of how many samples the most alike other one has the same class, and of how many in all.

    Args:
        model: (B, C, H, W) float in [0, 1] -> (B, D).
        samples: (N, C, H, W).
        truth: (N,) classes.
    """
    found = recall_among(predict_logits(model, samples), truth)["recall_at_1"]
    return (0, 0) if found is None else (round(found * len(truth)), len(truth))


def sums_of_student(
    model: nn.Module, samples: Tensor, truth: Tensor, own: Sequence[str], names: Sequence[str]
) -> NumberSums:
    """Sums over the samples, see `fedkd.tasks.released_scores`.

    Args:
        model: predicts numbers, as shares of their ranges.
        samples: (N, 1, 1, D).
        truth: (N, K) of the numbers that are known here.
        own: their names, (K,).
        names: of the numbers that the model predicts.

    Raises:
        DataError: the model lacks a number that is known here.
    """
    said = predict_logits(model, samples).clamp(0.0, 1.0)
    if said.shape[1] != len(names) or not set(own) <= set(names):
        raise DataError(
            f"a student of {said.shape[1]} numbers, and the data have {len(own)}; "
            "name the student of a run that predicts the same"
        )
    spread = torch.full_like(said, torch.nan)
    spread[:, [names.index(name) for name in own]] = truth
    return number_sums(said, spread)
