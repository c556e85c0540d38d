"""Image-prior terms against their formulas, pixel by pixel."""

import math

import pytest
import torch
from torch import Tensor

from fedkd.losses import Batch, l2_norm, mode_seeking, total_variation
from fedkd.protocol import Signal


def batch(images: Tensor, logits: Tensor) -> Batch:
    return Batch(images, {Signal.LOGITS: logits}, logits)


def test_pixel_terms_are_norms_of_the_whole_batch_in_units_of_normalised_images() -> None:
    x = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    squares = dict.fromkeys([(0, 1), (1, 0), (1, 1), (1, -1)], 0.0)
    for image in x.flatten(0, 1).tolist():
        for (dy, dx), _ in squares.items():
            for i in range(4 - dy):
                for j in range(max(0, -dx), 5 - max(0, dx)):
                    squares[dy, dx] += (image[i][j] - image[i + dy][j + dx]) ** 2
    seen = batch(x, torch.zeros(3, 4))
    expected = sum(4 * math.sqrt(each) for each in squares.values())
    assert float(total_variation().value(seen)) == pytest.approx(expected)
    assert float(l2_norm().value(seen)) == pytest.approx(
        math.sqrt(sum((4 * (v - 0.5)) ** 2 for v in x.flatten().tolist()))
    )


def test_the_norm_pulls_to_grey_and_not_to_black() -> None:
    none = torch.zeros(1, 4)
    grey, black, white = (torch.full((1, 1, 2, 2), value) for value in (0.5, 0.0, 1.0))
    of = {name: float(l2_norm().value(batch(x, none))) for name, x in vars_of(grey, black, white)}
    assert of["grey"] == 0.0
    assert of["black"] == of["white"] == pytest.approx(4.0)


def vars_of(*images: Tensor) -> list[tuple[str, Tensor]]:
    return list(zip(("grey", "black", "white"), images, strict=True))


def test_pixel_terms_ask_nobody() -> None:
    assert total_variation().needs == l2_norm().needs == frozenset()
    assert mode_seeking().needs == {Signal.LOGITS}


def test_mode_seeking_is_how_far_answers_move_for_each_step_of_pixels() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(13)).double() * 3
    x = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(1)).double()
    p = logits.softmax(1)
    answers = sum(float(((p[i + 3] - p[i]) ** 2).sum()) for i in range(3))
    pixels = sum(float(((x[i + 3] - x[i]) ** 2).sum()) for i in range(3))
    value = mode_seeking().value(batch(x, logits))
    assert float(value) == pytest.approx(math.sqrt(answers / pixels) / 4)
