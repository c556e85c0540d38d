"""Teachers that their owner has as objects in Python: a module, a fitted estimator, a `Teacher`."""

from torch import nn

from fedkd.client.vault.teachers.adapters.row_networks import row_network_teacher
from fedkd.client.vault.teachers.adapters.sklearn_estimator import estimator_teacher, is_classifier
from fedkd.client.vault.teachers.adapters.table_estimator import table_estimator_teacher
from fedkd.client.vault.teachers.adapters.table_layout import TableLayout
from fedkd.client.vault.teachers.adapters.torch_module_teacher import module_teacher
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, SettingsError
from fedkd.models import Teacher


def is_teacher(given: object) -> bool:
    """Whether an object has what `fedkd.models.Teacher` asks for."""
    return all(hasattr(given, name) for name in ("classes", "signals", "ask", "pull_back"))


def adapt_object(given: object, spec: TeacherSpec, layout: TableLayout | None) -> Teacher:
    """An object as a teacher; a module is copied.

    Args:
        given: an nn.Module, a fitted scikit-learn estimator, or a `fedkd.models.Teacher`.
        spec: what its owner says of it.
        layout: of the schema, where it reads rows of a table in their own units.

    Raises:
        DataError: it is none of these, or does not fit what its owner says.
    """
    if isinstance(given, nn.Module):
        teacher = module_teacher(given, spec)
        return teacher if layout is None else row_network_teacher(teacher, layout)
    if is_teacher(given):
        if spec.outputs != "logits":
            raise SettingsError(
                f"outputs = {spec.outputs!r} of a {type(given).__name__}, which is to answer "
                "logits itself; take outputs away"
            )
        teacher_object: Teacher = given  # type: ignore[assignment]  # as far as can be seen
        return teacher_object
    if layout is not None:
        return table_estimator_teacher(given, layout, spec.source)
    if is_classifier(given):
        return estimator_teacher(given, spec)
    raise DataError(
        f"an object of type {type(given).__name__} is no teacher; expected an nn.Module, a fitted "
        "scikit-learn classifier with predict_proba, a fedkd.models.Teacher, or the path of a "
        "model file"
    )
