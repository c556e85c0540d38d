"""Teachers in this process, for research without a network: no policy, nothing is private.

Answers are rounded as they would be on the wire, so that a run here equals a run over gRPC.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.models.output_checks import LogProbabilities, probe_images, sum_to_one
from fedkd.models.teacher import ModuleTeacher, Teacher
from fedkd.protocol import Answers, Ask, Card, Reply, Request, Signal, rounded

Outputs: TypeAlias = Literal["logits", "probabilities"]
"""What a module gives; the logarithm is taken of probabilities."""


class InProcess:
    """Institutions whose teachers are modules in this process.

    Args:
        teachers: by name; a module maps (B, C, H, W) in [0, 1] to (B, K), see ``outputs``.
        shape: (C, H, W).
        classes: K of a teacher whose classes have no names.
        class_counts: (K,) training images of each class by name of teacher, where known; they
            make the better ensemble (`fedkd.aggregation.log_linear_pool`).
        class_names: (K,) class names by name of teacher, where teachers have different classes.
        outputs: "probabilities" where modules end in a softmax; for all, or by name of teacher,
            and "logits" for those left out. A `Teacher` answers logits whatever it computes.

    Raises:
        SettingsError: a teacher does not answer K logits to an image of that shape, or it answers
            probabilities and ``outputs`` does not say so, or says so of one that does not.
    """

    def __init__(
        self,
        teachers: Mapping[str, nn.Module | Teacher],
        shape: tuple[int, int, int],
        classes: int,
        class_counts: Mapping[str, Sequence[int]] | None = None,
        class_names: Mapping[str, Sequence[str]] | None = None,
        outputs: Outputs | Mapping[str, Outputs] = "logits",
    ) -> None:
        counts, named = class_counts or {}, class_names or {}
        given = _outputs_of(teachers, outputs)
        sizes = {name: len(named[name]) if name in named else classes for name in teachers}
        self._teachers: dict[str, Teacher] = {
            name: _teacher(name, t, sizes[name], given[name]) for name, t in teachers.items()
        }
        for name, teacher in self._teachers.items():
            _check_answers(name, teacher, shape, sizes[name], given[name])
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


def _outputs_of(
    teachers: Mapping[str, nn.Module | Teacher], outputs: Outputs | Mapping[str, Outputs]
) -> dict[str, Outputs]:
    """What each teacher gives, by name."""
    known = get_args(Outputs)
    each = dict.fromkeys(teachers, outputs) if isinstance(outputs, str) else outputs
    for name, kind in each.items():
        if name not in teachers or kind not in known:
            raise SettingsError(
                f"outputs of {name!r}: {kind!r}; expected {' or '.join(known)}, of one of "
                f"{', '.join(teachers)}"
            )
    return {name: each.get(name, "logits") for name in teachers}


def _teacher(name: str, given: nn.Module | Teacher, classes: int, outputs: Outputs) -> Teacher:
    if isinstance(given, nn.Module):
        module = given if outputs == "logits" else LogProbabilities(given)
        return ModuleTeacher(module, classes)
    if outputs != "logits":
        raise SettingsError(
            f"outputs = {outputs!r} of teacher {name}, a {type(given).__name__}, which is to "
            "answer logits itself; name the teachers that are modules: outputs = {NAME: ...}"
        )
    return given


def _check_answers(
    name: str, teacher: Teacher, shape: tuple[int, int, int], classes: int, outputs: Outputs
) -> None:
    """Query a teacher once about probe images, before a run depends on the answers."""
    logits = _probed(name, teacher, shape)
    if logits.shape[1:] != (classes,):
        raise SettingsError(
            f"teacher {name} answers {(1, *logits.shape[1:])} to one image, expected "
            f"(1, {classes}); name its classes in class_names, where they are not those of the "
            "others"
        )
    if outputs == "logits" and sum_to_one(logits):
        raise SettingsError(
            f"teacher {name} answers probabilities where logits are expected; say "
            'outputs="probabilities"'
        )
    if outputs == "probabilities" and classes > 1 and not sum_to_one(logits.exp()):
        raise SettingsError(
            f"teacher {name} answers numbers that are no probabilities of {classes} classes; say "
            'outputs="logits", or let it end in a softmax'
        )


def _probed(name: str, teacher: Teacher, shape: tuple[int, int, int]) -> Tensor:
    try:
        return teacher.ask(probe_images(shape), frozenset({Signal.LOGITS}))[Signal.LOGITS]
    except RuntimeError as error:
        raise SettingsError(
            f"teacher {name} cannot read images of {shape}: {str(error).splitlines()[0]}; "
            "give the shape that it was trained on"
        ) from error
