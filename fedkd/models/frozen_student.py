"""The student of an earlier run as a frozen teacher, and its weights for more classes.

Source: ours, for Choi, El-Khamy and Lee (CVPR Workshops 2021); see `fedkd.methods.df_gr_dt_id`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fedkd.models.architectures import Shape
from fedkd.models.teacher import ModuleTeacher
from fedkd.protocol import Ask, Card, Column, PullBack, Reply, Signal

EARLIER_STUDENT = "earlier student"
"""Its name among those of the institutions."""


class FrozenStudent:
    """A copy of a student that never learns again; see `fedkd.core.earlier_student`.

    Args:
        network: (B, C, H, W) in [0, 1] -> (B, K_old), on the device where it shall be computed.
        classes: names of its outputs, (K_old,).
        shape: (C, H, W).
        columns: (D,) of the rows that it reads; empty: it reads images.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str],
        shape: Shape,
        columns: tuple[Column, ...] = (),
    ) -> None:
        self._teacher = ModuleTeacher(network, len(classes))
        self.card = Card(
            *(EARLIER_STUDENT, len(classes), shape, self._teacher.signals),
            pull_back=True,
            class_names=tuple(classes),
            columns=columns,
        )

    @property
    def network(self) -> nn.Module:
        """The frozen copy."""
        return self._teacher.module

    def answer(self, request: Ask | PullBack) -> Reply:
        """What it says of these images, or the gradient of that; float32, in ordinary memory."""
        if isinstance(request, Ask):
            return Reply(self._teacher.ask(request.images, request.signals))
        return Reply(gradient=self._teacher.pull_back(request.images, request.cotangents))

    def differentiable(self, images: Tensor, signals: frozenset[Signal]) -> Mapping[Signal, Tensor]:
        """Signals of one batch with their graph."""
        unit = images.contiguous(memory_format=torch.channels_last)
        return self._teacher.signals_with_graph(unit, signals)


@torch.no_grad()
def copy_grown_weights(student: nn.Module, earlier: nn.Module, places: Sequence[int]) -> bool:
    """Begin ``student`` with the weights of ``earlier``, which has fewer outputs.

    Of the last layer, output ``k`` of ``earlier`` is copied to output ``places[k]``; new outputs
    keep their fresh weights.

    Args:
        student: K outputs; changed.
        earlier: K_old <= K outputs.
        places: (K_old,) of the outputs of ``earlier`` among those of ``student``.

    Returns:
        Whether it did: the networks are alike but for their outputs. Else ``student`` stays fresh.
    """
    own, given = student.state_dict(), earlier.state_dict()
    if own.keys() != given.keys():
        return False
    wider = {name for name in own if own[name].shape != given[name].shape}
    if any(
        own[name].shape[1:] != given[name].shape[1:] or len(given[name]) != len(places)
        for name in wider
    ):
        return False
    at = torch.tensor(list(places), dtype=torch.long)
    for name, weights in given.items():
        if name in wider:
            own[name][at] = weights.to(own[name])
        else:
            own[name].copy_(weights)
    return True
