"""Teachers in this process, for research without a network: no policy, nothing is private.

Answers are rounded as they would be on the wire, so that a run here equals a run over gRPC.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fedkd.errors import SettingsError
from fedkd.models.teacher import ModuleTeacher, Teacher
from fedkd.protocol import Answers, Ask, Card, Reply, Request, Signal, rounded


class InProcess:
    """Institutions whose teachers are modules in this process.

    Args:
        teachers: by name; a module maps (B, C, H, W) in [0, 1] to (B, K) logits.
        shape: (C, H, W).
        classes: K of a teacher whose classes have no names.
        class_counts: (K,) training images of each class by name of teacher, where known; they
            make the better ensemble (`fedkd.aggregation.log_linear_pool`).
        class_names: (K,) class names by name of teacher, where teachers have different classes.

    Raises:
        SettingsError: a teacher does not answer K logits to an image of that shape.
    """

    def __init__(
        self,
        teachers: Mapping[str, nn.Module | Teacher],
        shape: tuple[int, int, int],
        classes: int,
        class_counts: Mapping[str, Sequence[int]] | None = None,
        class_names: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        counts, named = class_counts or {}, class_names or {}
        sizes = {name: len(named[name]) if name in named else classes for name in teachers}
        self._teachers: dict[str, Teacher] = {
            name: ModuleTeacher(t, sizes[name]) if isinstance(t, nn.Module) else t
            for name, t in teachers.items()
        }
        for name, teacher in self._teachers.items():
            _check_shapes(name, teacher, shape, sizes[name])
        self.cards = tuple(
            Card(
                name,
                sizes[name],
                shape,
                teacher.signals,
                teacher.differentiable,
                class_counts=tuple(counts[name]) if name in counts else None,
                class_names=tuple(named[name]) if name in named else None,
            )
            for name, teacher in self._teachers.items()
        )

    def answer(self, request: Request) -> Answers:
        """The replies of all teachers."""
        if isinstance(request, Ask):
            return {name: _reply(teacher, request) for name, teacher in self._teachers.items()}
        return {
            name: Reply(gradient=self._teachers[name].pull_back(ask.images, ask.cotangents))
            for name, ask in request.items()
        }


def _reply(teacher: Teacher, ask: Ask) -> Reply:
    signals = teacher.ask(ask.images, ask.signals)
    return Reply({signal: rounded(signals[signal], signal, ask.exact) for signal in ask.signals})


def _check_shapes(name: str, teacher: Teacher, shape: tuple[int, int, int], classes: int) -> None:
    """Query a teacher once about a black image, before a run depends on the answer."""
    try:
        logits = teacher.ask(torch.zeros(1, *shape), frozenset({Signal.LOGITS}))[Signal.LOGITS]
    except RuntimeError as error:
        raise SettingsError(
            f"teacher {name} cannot read images of {shape}: {str(error).splitlines()[0]}; "
            "give the shape that it was trained on"
        ) from error
    if logits.shape != (1, classes):
        raise SettingsError(
            f"teacher {name} answers {tuple(logits.shape)} to one image, expected (1, {classes}); "
            "name its classes in class_names, where they are not those of the others"
        )
