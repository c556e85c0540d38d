"""A labelled data set in memory: images, or rows of a table, split into training and test."""

from dataclasses import dataclass, field

from torch import Tensor

from fedkd.protocol import Column, NamedTask, Number


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples with labels, split into training and test. Its printed form shows no content."""

    name: str
    classes: int
    """K, classes or numbers; of several tasks the classes of all."""
    train_images: Tensor = field(repr=False)
    """(N, C, H, W) uint8; rows of a table: (N, 1, 1, D) float32 in [0, 1]."""
    train_labels: Tensor = field(repr=False)
    """(N,) int64 in 0..K-1; of numbers (N, K) float32 in [0, 1]; of M tasks (N, M) int64."""
    test_images: Tensor = field(repr=False)
    test_labels: Tensor = field(repr=False)
    columns: tuple[Column, ...] = field(default=(), repr=False)
    """(D,) of a table; empty: they are images."""
    numbers: tuple[Number, ...] = field(default=(), repr=False)
    """(K,) that are to be predicted; empty: classes are."""
    class_names: tuple[str, ...] = field(default=(), repr=False)
    """(K,); empty: classes are numbered."""
    tasks: tuple[NamedTask, ...] = field(default=(), repr=False)
    """(M,), of which every sample is labelled; empty: its classes are all there is."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width
