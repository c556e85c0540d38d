"""Access to a teacher that was trained elsewhere, opened as its owner specifies it."""

from collections.abc import Sequence
from functools import cached_property

from torch import nn

from fedkd.client.vault.teachers.formats import open_teacher
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.vault import Vault
from fedkd.client.vault.vault_settings import Assets
from fedkd.errors import DataError
from fedkd.models import Teacher


class ExternalVault(Vault):
    """The vault of a teacher that was trained elsewhere. Nothing is read yet.

    Args:
        spec: the owner's description of the teacher.
        assets: private data whose test samples evaluate students; their model is not used.
    """

    class_counts = None
    dp_training = None
    guarantee = None
    fingerprints = ()

    def __init__(self, spec: TeacherSpec, assets: Assets | None = None) -> None:
        self.spec = spec
        self._tests = None if assets is None else TrainedVault(assets)

    @property
    def classes(self) -> int:
        """K as specified; checked against the teacher when it is opened, and so is the shape."""
        return self.spec.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Vault.shape`."""
        return self.spec.shape

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """See `Vault.class_names`."""
        return self.spec.class_names

    @property
    def scores(self) -> bool:
        """See `Vault.scores`."""
        return self._tests is not None

    @cached_property
    def teacher(self) -> Teacher:
        """Opened, and tried once.

        Raises:
            SettingsError: see `fedkd.client.vault.teachers.formats.open_teacher`.
            DataError: likewise, or the test data are of another shape or have more classes.
        """
        tests = self._tests
        if tests is not None and (tests.shape != self.shape or tests.classes > self.classes):
            raise DataError(
                f"the test data are {tests.classes} classes of {list(tests.shape)} and the "
                f"teacher reads {self.classes} of {list(self.shape)}; name data that fit it"
            )
        return open_teacher(self.spec)

    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """See `Vault.score`. Classes of the test data are numbers; the teacher's may have names."""
        if self._tests is None:
            return 0, 0
        if classes is not None and self.class_names is not None:
            number = {name: str(place) for place, name in enumerate(self.class_names)}
            classes = [number.get(name, "") for name in classes]
        return self._tests.score(model, classes)
