"""Build an institution from a teacher that its owner has in Python: an object, or a model file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedkd.client.institution.institution import Institution
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.vault.external_vault import ExternalVault
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import SettingsError
from fedkd.models import Classes, Outputs
from fedkd.privacy import Policy

SUFFIXES = {".onnx": "onnx", ".pt2": "pt2", ".skops": "skops"}
"""Prefix of a source by the suffix of a file."""


def brought_institution(
    name: str,
    teacher: object,
    policy: Policy,
    ledger: Ledger | None = None,
    *,
    shape: tuple[int, int, int] | None = None,
    classes: Classes = None,
    outputs: Outputs = "logits",
    schema: Path | None = None,
) -> Institution:
    """An institution around a teacher that was trained elsewhere.

    Args:
        name: of the institution.
        teacher: an nn.Module, (B, C, H, W) in [0, 1] -> (B, K); a fitted scikit-learn classifier of
            (N, C H W) floats in [0, 1]; a `fedkd.models.Teacher`; a model file (.onnx, .pt2,
            .skops); any other source of `fedkd.client.vault.teachers.formats.FORMATS`, as
            "timm:resnet18"; or a `TeacherSpec`, which says the rest too.
        policy: what may be asked.
        ledger: None keeps one in memory.
        shape: (C, H, W) of the images.
        classes: number or names of its outputs; a model file needs it. Where a federation has
            several tasks: names of classes by name of task, in the order of the outputs.
        outputs: what a module or a file gives.
        schema: where the teacher reads rows of a table, in place of shape and classes.

    Raises:
        SettingsError: something that is needed is missing, or does not fit the teacher.
        DataError: the teacher cannot be opened, or answers otherwise than it should.
    """
    if isinstance(teacher, TeacherSpec):
        return Institution(name, ExternalVault(teacher), policy, ledger)
    if schema is None and shape is None:
        raise SettingsError(
            f"teacher {name}: shape is missing; give shape = (C, H, W) of its images, or for rows "
            "of a table a schema"
        )
    source = _source(teacher)
    tasks = {t: tuple(own) for t, own in classes.items()} if isinstance(classes, Mapping) else {}
    count, names = 0, None
    if not (schema or isinstance(classes, Mapping)):
        count, names = _classes(name, teacher, shape or (1, 1, 1), classes)
    spec = TeacherSpec(
        source,
        shape or (0, 0, 0),
        classes=count,
        class_names=names,
        tasks=tasks,
        outputs=outputs,
        schema=schema,
    )
    given = None if isinstance(teacher, str | Path) else teacher
    return Institution(name, ExternalVault(spec, given=given), policy, ledger)


def _source(teacher: object) -> str:
    """The source of a `TeacherSpec`; of an object its type, for errors."""
    if isinstance(teacher, str | Path):
        prefix = SUFFIXES.get(Path(teacher).suffix)
        whole = str(teacher)
        return f"{prefix}:{whole}" if prefix and not whole.startswith(f"{prefix}:") else whole
    return f"object:{type(teacher).__name__}"


def _classes(
    name: str, teacher: object, shape: tuple[int, int, int], classes: int | Sequence[str] | None
) -> tuple[int, tuple[str, ...] | None]:
    """K and the names of a teacher's classes, if they have names."""
    if isinstance(classes, int):
        return classes, None
    if classes is not None:
        return len(classes), tuple(classes)
    if (fitted := getattr(teacher, "classes_", None)) is not None:
        own = np.asarray(fitted).tolist()
        if all(isinstance(one, int) for one in own):
            return max(own) + 1, None
        return len(own), tuple(str(one) for one in own)
    if isinstance(teacher, nn.Module):
        return _outputs_of(name, teacher, shape), None
    if isinstance(known := getattr(teacher, "classes", None), int):
        return known, None
    raise SettingsError(
        f"teacher {name}: classes is missing; give their number or their names, as "
        f'classes = ["cat", "dog"]'
    )


def _outputs_of(name: str, module: nn.Module, shape: tuple[int, int, int]) -> int:
    """K of a network, by one black image."""
    was_training, first = module.training, next(module.parameters(), None)
    device = torch.device("cpu") if first is None else first.device
    module.eval()
    try:
        with torch.no_grad():
            outputs = module(torch.zeros(1, *shape, device=device))
    except RuntimeError as error:
        raise SettingsError(
            f"teacher {name} cannot read images of {shape}: {str(error).splitlines()[0]}; give "
            "the shape that it was trained on"
        ) from error
    finally:
        module.train(was_training)
    if outputs.ndim != 2:
        raise SettingsError(
            f"teacher {name} answers {tuple(outputs.shape)} to one image, expected (1, K)"
        )
    return int(outputs.shape[1])
