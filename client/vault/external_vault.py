"""Access to a teacher that was trained elsewhere, opened as its owner specifies it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from torch import nn

from fedkd.client.vault.labelled_samples import in_teacher_classes
from fedkd.client.vault.teachers.adapters.table_layout import TableLayout
from fedkd.client.vault.teachers.formats import open_object, open_teacher
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.vault import LabelledSamples, Vault
from fedkd.client.vault.vault_settings import Assets
from fedkd.data.table_schema import parse_schema
from fedkd.errors import DataError
from fedkd.models import EmbeddingTeacher, Teacher
from fedkd.protocol import Column, NamedTask, Number, named_tasks
from fedkd.tasks import NumberSums, TaskCounts


class ExternalVault(Vault):
    """The vault of a teacher that was trained elsewhere. Nothing is read yet.

    Args:
        spec: the owner's description of the teacher.
        assets: private data whose test samples evaluate students; their model is not used.
        given: the teacher, where it is an object in Python; None: the source says where it is.
    """

    class_counts = None
    dp_training = None
    guarantee = None
    fingerprints = ()

    def __init__(
        self, spec: TeacherSpec, assets: Assets | None = None, given: object | None = None
    ) -> None:
        self.spec, self._given = spec, given
        if assets is not None and self.embedding:
            assets = replace(assets, embedding=spec.classes)
        self._tests = None if assets is None else TrainedVault(_in_one_task(spec, assets))

    @property
    def classes(self) -> int:
        """K as specified; checked against the teacher when it is opened, and so is the shape."""
        return self.spec.classes if self._layout is None else self._layout.outputs

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Vault.shape`."""
        return self.spec.shape if self._layout is None else self._layout.shape

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `Vault.columns`; as the schema says."""
        return () if self._layout is None else self._layout.columns

    @property
    def numbers(self) -> tuple[Number, ...]:
        """See `Vault.numbers`; as the schema says."""
        return () if self._layout is None else self._layout.numbers

    @property
    def tasks(self) -> tuple[NamedTask, ...]:
        """See `Vault.tasks`; as the spec says."""
        return named_tasks(self.spec.tasks)

    @property
    def embedding(self) -> bool:
        """See `Vault.embedding`."""
        return self.spec.outputs == "embedding"

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """See `Vault.class_names`."""
        return self.spec.class_names if self._layout is None else self._layout.class_names or None

    @property
    def scores(self) -> bool:
        """See `Vault.scores`."""
        return self._tests is not None

    @property
    def training_samples(self) -> LabelledSamples | None:
        """See `Vault.training_samples`: those of [data], if the teacher was fitted on them."""
        if self._tests is None:
            return None
        return in_teacher_classes(self, self._tests, self._tests.training_samples)

    @property
    def test_samples(self) -> LabelledSamples | None:
        """See `Vault.test_samples`."""
        if self._tests is None:
            return None
        return in_teacher_classes(self, self._tests, self._tests.test_samples)

    @cached_property
    def teacher(self) -> Teacher:
        """Opened, and tried once.

        Raises:
            SettingsError: see `fedkd.client.vault.teachers.formats.open_teacher`.
            DataError: likewise, or the test data are of another shape or have more classes.
        """
        if self._tests is not None:
            self._check_tests(self._tests)
        if self._given is not None:
            teacher = open_object(self._given, self.spec, self._layout)
        else:
            teacher = open_teacher(self.spec, self._layout)
        return EmbeddingTeacher(teacher) if self.embedding else teacher

    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """See `Vault.score`.

        Classes of test images are those of the teacher by name, or by place where their names
        differ or they have none.
        """
        if self._tests is None:
            return 0, 0
        self._check_tests(self._tests)
        if classes is not None and self.class_names is not None and self._layout is None:
            known = self._tests.class_names or tuple(map(str, range(self._tests.classes)))
            if not set(known) <= set(self.class_names):
                place_of = dict(zip(self.class_names, known, strict=False))
                classes = [place_of.get(name, "") for name in classes]
        return self._tests.score(model, classes)

    def task_counts(
        self, model: nn.Module, names: Sequence[str] | None = None
    ) -> TaskCounts | None:
        """See `Vault.task_counts`. The test data name the teacher's tasks and classes."""
        if self._tests is None:
            return None
        self._check_tests(self._tests)
        return self._tests.task_counts(model, names)

    def number_sums(
        self, model: nn.Module, names: Sequence[str] | None = None
    ) -> NumberSums | None:
        """See `Vault.number_sums`."""
        if self._tests is None:
            return None
        self._check_tests(self._tests)
        return self._tests.number_sums(model, names)

    @cached_property
    def _layout(self) -> TableLayout | None:
        """What the schema says; None: the teacher reads images."""
        if self.spec.schema is None:
            return None
        schema = parse_schema(self.spec.path(self.spec.schema))
        return TableLayout(schema.columns, schema.numbers, schema.classes)

    def _check_tests(self, tests: TrainedVault) -> None:
        fits = self.embedding or tests.classes <= self.classes
        if tests.shape != self.shape or not fits:
            raise DataError(
                f"the test data are {tests.classes} classes of {list(tests.shape)} and the "
                f"teacher reads {self.classes} of {list(self.shape)}; name data that fit it"
            )
        if self.tasks and not set(tests.tasks) <= set(self.tasks):
            raise DataError(
                "the test data have other tasks or classes than the teacher; name data whose "
                "classes are called as in teacher.tasks"
            )
        same = (tests.columns, tests.numbers) == (self.columns, self.numbers)
        if not same or (self._layout is not None and tests.class_names != self.class_names):
            raise DataError(
                "the schema of the test data is not the one of the teacher; give both the same"
            )


def _in_one_task(spec: TeacherSpec, assets: Assets) -> Assets:
    """Test data whose classes are those of the teacher's only task, if it has one."""
    if len(spec.tasks) != 1 or assets.data.endswith("-attributes"):
        return assets
    ((task, names),) = spec.tasks.items()
    return replace(assets, task=task, class_names=tuple(names))
