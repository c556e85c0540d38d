"""Network architectures: CNN, MLP, LeNet-5, ResNets, wide ResNet, and a linear layer on scattering.

Every network takes (B, C, H, W) floats in [0, 1], normalises them itself, and is made of two
parts: ``embed`` turns images into features (B, D), ``head`` turns features into logits (B, K).
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.models.wavelet_scattering import CHANNELS, Scattering

Shape: TypeAlias = tuple[int, int, int]
"""(C, H, W)."""


class Normalisation(nn.Module):
    """[0, 1] -> [-1, 1], as the first layer of a network, so that callers need not normalise."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return (x - 0.5) / 0.5


class GlobalPooling(nn.Module):
    """Global pooling, one number for each channel: (B, C, H, W) -> (B, C).

    Adaptive pooling to 1x1 is the same. But here the gradient has the memory format of the images,
    so that a step on small images takes a tenth less; and ONNX has the operator.

    Args:
        pool: `torch.nn.functional.avg_pool2d` or `max_pool2d`.
    """

    def __init__(self, pool: Callable[[Tensor, list[int]], Tensor]) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C)."""
        return self.pool(x, list(x.shape[2:])).flatten(1)


class Network(nn.Module):
    """A network in two parts: a body that ends in features (B, D), and a linear head.

    Args:
        body: (B, C, H, W) in [-1, 1] -> (B, D).
        head: D -> K.
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.body = nn.Sequential(Normalisation(), body)
        self.head = head

    def embed(self, x: Tensor) -> Tensor:
        """The input of the last layer: (B, C, H, W) in [0, 1] -> (B, D)."""
        features: Tensor = self.body(x)
        return features

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, K)."""
        logits: Tensor = self.head(self.embed(x))
        return logits


Norm: TypeAlias = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.Module:
    """Group normalisation in eight groups, or in fewer where eight do not divide the channels."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def cnn(width: int, norm: Norm) -> Callable[[int, Shape], Network]:
    """Three 3x3 convolutions and global average pooling; from 2x2 up, meant for 8x8 to 32x32.

    Images are halved once, and from 16x16 up twice.
    """

    def make(classes: int, shape: Shape) -> Network:
        _require_size("this cnn", shape, 2)
        body = nn.Sequential(
            *_conv_block(shape[0], width, norm),
            nn.MaxPool2d(2) if min(shape[1:]) >= 16 else nn.Identity(),
            *_conv_block(width, 2 * width, norm),
            nn.MaxPool2d(2),
            *_conv_block(2 * width, 2 * width, norm),
            GlobalPooling(F.avg_pool2d),
        )
        return Network(body, nn.Linear(2 * width, classes))

    return make


def _conv_block(channels: int, width: int, norm: Norm) -> Sequence[nn.Module]:
    return nn.Conv2d(channels, width, 3, padding=1, bias=False), norm(width), nn.ReLU()


def mlp(classes: int, shape: Shape) -> Network:
    """Two hidden layers of 256; any size."""
    pixels = shape[0] * shape[1] * shape[2]
    body = nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
    )
    return Network(body, nn.Linear(256, classes))


def lenet5(classes: int, shape: Shape) -> Network:
    """6-16-120-84 with ReLU and maximum pooling (after LeCun et al., 1998); from 16x16 up.

    Images below 32x32 are padded by two, so that 28x28 and 32x32 give the same 16 x 5 x 5.
    """
    return _lenet("lenet5", classes, shape, (6, 16, 120, 84))


def lenet5_half(classes: int, shape: Shape) -> Network:
    """`lenet5` with half of its channels, 3-8-60-42: the student of DAFL and its successors."""
    return _lenet("lenet5-half", classes, shape, (3, 8, 60, 42))


def _lenet(name: str, classes: int, shape: Shape, widths: tuple[int, int, int, int]) -> Network:
    first, second, third, fourth = widths
    _require_size(name, shape, 16)
    padding = 2 if min(shape[1:]) < 32 else 0
    height, side = (((length + 2 * padding - 4) // 2 - 4) // 2 for length in shape[1:])
    body = nn.Sequential(
        nn.Conv2d(shape[0], first, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * height * side, third),
        nn.ReLU(),
        nn.Linear(third, fourth),
        nn.ReLU(),
    )
    return Network(body, nn.Linear(fourth, classes))


class PostActivationBlock(nn.Module):
    """Residual block of ResNet: norm after each convolution, ReLU after the sum."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        same = stride == 1 and channels == width
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class PreActivationBlock(nn.Module):
    """Residual block of the wide ResNet: norm and ReLU before each convolution."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same = stride == 1 and channels == width
        self.shortcut = None if same else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width, H / stride, W / stride)."""
        active = F.relu(self.norm1(x))
        y: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


def _stages(
    block: type[PostActivationBlock] | type[PreActivationBlock],
    start: int,
    widths: Sequence[int],
    depths: Sequence[int],
) -> list[nn.Module]:
    """Stages of residual blocks; every stage but the first halves the image."""
    blocks: list[nn.Module] = []
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for place in range(depth):
            blocks.append(block(start, width, 2 if stage and not place else 1))
            start = width
    return blocks


def resnet(*depths: int, width: int = 64) -> Callable[[int, Shape], Network]:
    """ResNet (He et al., CVPR 2016) with the 3x3 stem for small images; from 8x8 up.

    Its stages are 1, 2, 4 and 8 times as wide as the stem, which is 64 wide in the original.
    """
    widths = [width, 2 * width, 4 * width, 8 * width]

    def make(classes: int, shape: Shape) -> Network:
        _require_size("this resnet", shape, 8)
        body = nn.Sequential(
            *_conv_block(shape[0], width, nn.BatchNorm2d),
            *_stages(PostActivationBlock, width, widths, depths),
            GlobalPooling(F.avg_pool2d),
        )
        return Network(body, nn.Linear(widths[-1], classes))

    return make


class ResNet9Block(nn.Module):
    """Residual block of ResNet-9: two convolutions, each with norm and ReLU, before the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_conv_block(width, width, nn.BatchNorm2d), *_conv_block(width, width, nn.BatchNorm2d)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, H, W)."""
        y: Tensor = self.body(x)
        return x + y


def resnet9(width: int) -> Callable[[int, Shape], Network]:
    """ResNet-9 (Page, How to Train Your ResNet, 2018; DAWNBench) of that width; from 8x8 up.

    It learns natural images in a few epochs. The original is 64 wide.
    """

    def make(classes: int, shape: Shape) -> Network:
        _require_size("this resnet9", shape, 8)
        body = nn.Sequential(
            *_conv_block(shape[0], width, nn.BatchNorm2d),
            *_conv_block(width, 2 * width, nn.BatchNorm2d),
            nn.MaxPool2d(2),
            ResNet9Block(2 * width),
            *_conv_block(2 * width, 4 * width, nn.BatchNorm2d),
            nn.MaxPool2d(2),
            *_conv_block(4 * width, 8 * width, nn.BatchNorm2d),
            nn.MaxPool2d(2),
            ResNet9Block(8 * width),
            GlobalPooling(F.max_pool2d),
        )
        return Network(body, nn.Linear(8 * width, classes))

    return make


def wrn16_1(classes: int, shape: Shape) -> Network:
    """Wide ResNet 16-1 (Zagoruyko and Komodakis, BMVC 2016); from 4x4 up."""
    _require_size("wrn16-1", shape, 4)
    body = nn.Sequential(
        nn.Conv2d(shape[0], 16, 3, padding=1, bias=False),
        *_stages(PreActivationBlock, 16, (16, 32, 64), (2, 2, 2)),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        GlobalPooling(F.avg_pool2d),
    )
    return Network(body, nn.Linear(64, classes))


def scattering(classes: int, shape: Shape) -> Network:
    """Fixed scattering features and a linear layer, the only part that is trained; from 8x8 up."""
    _require_size("scattering", shape, 8)
    places = (shape[1] // 4) * (shape[2] // 4)
    body = nn.Sequential(Scattering(shape[0]), nn.Flatten())
    return Network(body, nn.Linear(shape[0] * CHANNELS * places, classes))


def _require_size(who: str, shape: Shape, side: int) -> None:
    if min(shape[1:]) < side:
        raise SettingsError(
            f"{who} reads images from {side}x{side} up and these are {shape[1]}x{shape[2]}; "
            f"choose another model or resize the images"
        )
