"""Teacher whose batch-norm layers normalise by the statistics of each batch."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fedkd.core.batch_norm import batch_norm_layers
from fedkd.models.teacher import ModuleTeacher, Teacher
from fedkd.protocol import Signal, as_float


class BatchStatisticsTeacher(ModuleTeacher):
    """A network as a teacher, its batch norm by the statistics of each batch, see `fedkd.core`.

    A batch is one piece, whatever its size. There is no BN_GAP, since nothing is kept to which a
    batch could be compared.

    Args:
        module: see `ModuleTeacher`; it stays as it is.
        classes: K.
    """

    def __init__(self, module: nn.Module, classes: int) -> None:
        super().__init__(module, classes)
        for layer in batch_norm_layers(self.module):
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = None

    def _pieces(
        self, images: Tensor, signals: frozenset[Signal], size: int = 0
    ) -> Iterator[Tensor]:
        unit = as_float(images.to(self._device))
        yield unit.contiguous(memory_format=torch.channels_last)


def by_batch_statistics(teacher: Teacher) -> Teacher | None:
    """The same teacher by each batch's statistics; None where it has no batch norm here."""
    if not isinstance(teacher, ModuleTeacher) or not batch_norm_layers(teacher.module):
        return None
    return BatchStatisticsTeacher(teacher.module, teacher.classes)
