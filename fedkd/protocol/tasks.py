"""Several tasks of a teacher: attributes of a sample, each with classes of its own.

A teacher of M tasks answers (B, K): the logits of its tasks side by side, each task one softmax. In
a federation of several tasks an output is called ``task: class``, and the outputs of a task stand
together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedkd.errors import SettingsError

SOFTMAX = "softmax"
"""Exactly one class of the task holds. A label that may hold beside others is a task of its own,
with two classes: there is no sigmoid."""
MAX_TASKS = 256
"""Tasks of one institution."""
MAX_OUTPUT_NAME = 64
"""Characters of ``task: class``."""
SEPARATOR = ": "


@dataclass(frozen=True)
class NamedTask:
    """One of several tasks.

    Attributes:
        name: each different; without ``: ``.
        class_names: (K,), K >= 2, each different.
        kind: what its outputs are; `SOFTMAX`.
    """

    name: str
    class_names: tuple[str, ...]
    kind: str = SOFTMAX

    @property
    def output_names(self) -> tuple[str, ...]:
        """``task: class`` of each output, (K,)."""
        return tuple(f"{self.name}{SEPARATOR}{each}" for each in self.class_names)


def output_names_of(tasks: Sequence[NamedTask]) -> tuple[str, ...]:
    """Names of the outputs of all tasks, side by side, (K,)."""
    return tuple(name for task in tasks for name in task.output_names)


def task_slices(tasks: Sequence[NamedTask]) -> dict[str, slice]:
    """Where the outputs of each task stand, by name of task."""
    slices, start = {}, 0
    for task in tasks:
        slices[task.name] = slice(start, start + len(task.class_names))
        start += len(task.class_names)
    return slices


def tasks_of_outputs(names: Sequence[str]) -> tuple[NamedTask, ...]:
    """The reverse of `output_names_of`; the outputs of a task stand together.

    Raises:
        SettingsError: a name that is none of a task's output.
    """
    classes: dict[str, list[str]] = {}
    for name in names:
        task, separator, own = name.partition(SEPARATOR)
        if not separator:
            raise SettingsError(f"{name!r} is no output of a task; expected 'task{SEPARATOR}class'")
        classes.setdefault(task, []).append(own)
    return tuple(NamedTask(task, tuple(own)) for task, own in classes.items())


def union_of_tasks(each: Sequence[Sequence[NamedTask]]) -> tuple[NamedTask, ...]:
    """The tasks that some institution has, with all classes that one knows of each.

    Tasks are in the order of the alphabet, and so are classes, or by size where they are numbers.
    """
    classes: dict[str, set[str]] = {}
    for task in (task for own in each for task in own):
        classes.setdefault(task.name, set()).update(task.class_names)
    return tuple(NamedTask(name, in_order(classes[name])) for name in sorted(classes))


def in_order(names: set[str]) -> tuple[str, ...]:
    """Names that are all whole numbers by size, others by the alphabet."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def named_tasks(classes: Mapping[str, Sequence[str]]) -> tuple[NamedTask, ...]:
    """Tasks of names of classes by name of task, checked.

    Raises:
        SettingsError: something is out of bounds.
    """
    tasks = tuple(NamedTask(name, tuple(own)) for name, own in classes.items())
    if why := tasks_violation(tasks):
        raise SettingsError(f"{why}; mend the tasks")
    return tasks


def tasks_violation(tasks: Sequence[NamedTask]) -> str | None:
    """The first thing that is out of bounds, in one line that repeats no text of the tasks."""
    if len(tasks) > MAX_TASKS:
        return f"a teacher of {len(tasks)} tasks, expected at most {MAX_TASKS}"
    if len({task.name for task in tasks}) != len(tasks):
        return "a teacher with two tasks of one name"
    for place, task in enumerate(tasks):
        if task.kind != SOFTMAX:
            return f"task {place}: a kind that this release does not know, expected {SOFTMAX}"
        if not task.name or ":" in task.name or not all(map(_is_output_name, task.output_names)):
            return (
                f"task {place}: name and classes must be printable and together below "
                f"{MAX_OUTPUT_NAME} characters, and the name without a colon"
            )
        if len(set(task.class_names)) != len(task.class_names) or len(task.class_names) < 2:
            return f"task {place}: expected 2 or more classes, each named once"
        if not all(task.class_names):
            return f"task {place}: a class without a name"
    return None


def _is_output_name(name: str) -> bool:
    return len(name) <= MAX_OUTPUT_NAME and name.isprintable()
