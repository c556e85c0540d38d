"""The generator: images of any size, of any batch."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.models import Generator, StandardisedGenerator


@given(st.sampled_from([1, 3]), st.integers(4, 40), st.integers(4, 40), st.sampled_from([1, 2, 5]))
def test_a_generator_fits_any_shape_from_4x4_up_and_any_batch(
    channels: int, height: int, width: int, count: int
) -> None:
    generator = Generator(4, (channels, height, width), width=2)
    images = generator(torch.randn(count, 4, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (count, channels, height, width)
    assert 0 <= float(images.detach().min()) <= float(images.detach().max()) <= 1


def test_standardised_images_have_the_mean_and_deviation_of_the_data() -> None:
    torch.manual_seed(0)
    generator = StandardisedGenerator(8, (3, 8, 8), 4, (0.1, 0.5, 0.4), (0.3, 0.2, 0.1)).train()
    images = generator(torch.randn(64, 8))
    assert images.shape == (64, 3, 8, 8)
    deviation, mean = torch.std_mean(images.transpose(0, 1).flatten(1), 1, correction=0)
    assert torch.allclose(mean, torch.tensor([0.1, 0.5, 0.4]), atol=1e-4)
    assert torch.allclose(deviation, torch.tensor([0.3, 0.2, 0.1]), rtol=0.01)
    assert not [n for n, _ in generator.named_parameters() if n.startswith("output_norm")]
