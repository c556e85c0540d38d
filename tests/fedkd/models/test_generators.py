"""The generator: images of any size, of any batch."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.models import Generator


@given(st.sampled_from([1, 3]), st.integers(4, 40), st.integers(4, 40), st.sampled_from([1, 2, 5]))
def test_a_generator_fits_any_shape_from_4x4_up_and_any_batch(
    channels: int, height: int, width: int, count: int
) -> None:
    generator = Generator(4, (channels, height, width), width=2)
    images = generator(torch.randn(count, 4, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (count, channels, height, width)
    assert 0 <= float(images.detach().min()) <= float(images.detach().max()) <= 1
