"""What every synthesis target shares: samples as bytes, and first weights by seed alone."""

import torch
from torch import nn

from fedkd.synthesis import to_bytes
from fedkd.synthesis.parameterisation import reset, seeded


def test_images_are_asked_about_as_bytes() -> None:
    unit = torch.tensor([0.0, 0.2, 0.5, 1.0]).view(1, 1, 2, 2).requires_grad_()
    asked = to_bytes(unit)
    assert asked.flatten().tolist() == [0, 51, 128, 255]
    assert (asked.dtype, asked.requires_grad) == (torch.uint8, False)
    assert to_bytes(asked) is asked


def test_first_weights_depend_on_the_seed_and_leave_the_global_stream_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, again, other = (seeded(seed, lambda: nn.Linear(4, 4)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)


def test_a_reset_reaches_every_layer_and_what_batch_norm_has_seen() -> None:
    layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    before = {name: t.clone() for name, t in layers.state_dict().items()}
    layers.train()(5 + torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(layers[1].running_mean, before["1.running_mean"])
    torch.manual_seed(3)
    reset(layers)
    assert torch.equal(layers[1].running_mean, before["1.running_mean"])
    for index in (0, 3):
        assert not torch.equal(layers[index].weight, before[f"{index}.weight"])
