"""The owner's configuration: the tables of his TOML file, validated.

    name = "north"
    [teacher]      where the teacher comes from
    [data]         the private data, where the teacher is trained here
    [policy]       what may be released; all else is refused
    [connection]   the coordinator, and the files for mutual TLS
    [state]        where ledger, teacher and control socket are

Paths are relative to the file. `fedkd.client.config.template` is a commented file.
"""

from dataclasses import replace
from datetime import time
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedkd.client.config.connection import Address, ConnectionTable
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec, spec_from_table
from fedkd.errors import SettingsError
from fedkd.experiment import ResolvedPath, Section, read_toml, validate_settings
from fedkd.privacy import Budget, Policy
from fedkd.protocol import Signal
from fedkd.wire import MAX_NAME_LENGTH
from fedkd.wire.grpc_channels import refuse_plain_text

Count = Annotated[int, Field(ge=1)]


class DpTrainingTable(Section):
    """The fields of `fedkd.client.vault.training.settings.DpSgdSettings`."""

    epsilon: float = Field(gt=0)
    delta: float = Field(1e-5, gt=0, lt=1)
    clipping: float = Field(1.0, gt=0)
    epochs: Count = 30
    sampling_rate: float = Field(0.05, gt=0, le=1)
    learning_rate: float = Field(5e-3, gt=0)
    accountant: Literal["prv", "rdp"] = "prv"


class ShrunkTable(Section):
    """The fields of `fedkd.client.vault.compression.settings.ShrinkSettings`."""

    width: float = Field(0.5, gt=0, lt=1)
    images: Count = 5
    steps: Count = 150
    last_steps: int = Field(3000, ge=0)
    learning_rate: float = Field(0.01, gt=0)
    shift: int = Field(1, ge=0)
    """Most pixels by which an image is shifted at random."""
    mirrors: bool = False
    """Whether images are mirrored at random, left to right."""
    private: DpTrainingTable | None = None
    """For mode dp-teacher: replaces images, both steps, learning rate, shift and mirrors."""


class TeacherTable(Section):
    """A teacher trained here, on the data of [data]. An external one has a `TeacherSpec`."""

    source: Literal["trained"] = "trained"
    model: str = "cnn"
    """A key of `fedkd.models.MODELS`, sklearn:NAME, timm:NAME, torchvision:NAME, or
    package.module:factory."""
    epochs: Count = 40
    batch: int = Field(32, ge=2)
    learning_rate: float = Field(5e-3, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    seed: int = 0
    class_names: tuple[str, ...] = ()
    """Names of the classes of [data], in their order; none: numbers."""
    task: str | None = None
    """Where the institutions of a federation label different tasks: which one [data] labels."""
    embedding: int | None = Field(None, ge=1, le=10_000)
    """Width of the embedding that it outputs, trained by the classes of [data] (supervised
    contrastive); left out: it predicts them."""
    voters: int = Field(0, ge=0)
    """For mode pate: teachers that vote, each trained on samples of its own."""
    private: DpTrainingTable | None = None
    """For mode dp-teacher: replaces epochs, batch and rates."""
    shrunk: ShrunkTable | None = None
    """Where given, a narrower network answers that is made of this one on the same images."""


class DataTable(Section):
    """Private data. All but ``source`` and ``root`` is for tests on shared data."""

    source: str
    """digits, torchvision:NAME, folder:PATH, parquet:PATH, npz:PATH, rows of table:PATH, or
    package.module:factory."""
    root: ResolvedPath = Field(Path(), validate_default=True)
    """Folder to which PATH is relative."""
    index: int = Field(0, ge=0)
    count: Count = 1
    partition: Literal["iid", "dirichlet", "shards", "file"] = "iid"
    alpha: float = Field(0.5, gt=0)
    shards: Count = 2
    partition_file: ResolvedPath | None = None
    partition_seed: int = 0
    tasks: tuple[str, ...] = ()
    """Of data with several tasks: those that are labelled here; none: all."""


class BudgetTable(Section):
    """The fields of `fedkd.privacy.budget.Budget`."""

    epsilon: float = Field(gt=0)
    delta: float = Field(1e-5, gt=0, lt=1)


class PolicyTable(Section):
    """The fields of `fedkd.privacy.Policy`. Signals and samples have no default here."""

    signals: frozenset[Signal]
    samples: Count
    pull_back: bool = False
    largest_batch: Count = 4096
    class_counts: bool = False
    scores: bool = False
    examinations: Count = 50
    samples_per_hour: Count | None = None
    hours: tuple[time, time] | None = None
    servers: frozenset[Address] | None = None
    shape: tuple[Count, Count, Count] | None = None
    low: float = Field(0.0, ge=0, le=1)
    high: float = Field(1.0, ge=0, le=1)
    batch_statistics: bool = False
    recipes: bool = True
    labels: bool = False
    top_k: Count | None = None
    rounding: Count | None = None
    mode: str = "none"
    budget: BudgetTable | None = None
    noise: float | None = Field(None, gt=0)
    clipping: float = Field(8.0, gt=0)

    def to_policy(self) -> Policy:
        """The release policy with these values."""
        values = dict(self)
        values["budget"] = None if self.budget is None else Budget(**dict(self.budget))
        # The decimal number in the file, not its nearest binary float.
        values["noise"] = None if self.noise is None else Fraction(str(self.noise))
        values["clipping"] = Fraction(str(self.clipping))
        return Policy(**values)


class StateTable(Section):
    """Where the institution stores its own files."""

    folder: ResolvedPath = Field(Path("state"), validate_default=True)
    """Of ledger and teacher; readable to the owner alone."""
    socket: ResolvedPath | None = None
    """The control socket for Flower's ClientApp; None for agent.sock in the folder."""
    socket_group: str | None = None
    """Group that may use the socket, where Flower runs as another user. The socket then needs a
    folder of its own, which the group can enter."""

    @property
    def control_socket(self) -> Path:
        """Path of the control socket."""
        return self.socket or self.folder / "agent.sock"

    @property
    def ledger(self) -> Path:
        """Path of the ledger."""
        return self.folder / "ledger.sqlite"


class OwnerConfig(Section):
    """The whole configuration, with resolved paths."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    teacher: TeacherTable | TeacherSpec
    data: DataTable | None = None
    policy: PolicyTable
    connection: ConnectionTable | None = None
    state: StateTable

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _ = self.policy.to_policy()  # raises where no policy can have these values
        if isinstance(self.teacher, TeacherTable) and self.data is None:
            raise SettingsError("a teacher that is trained here needs data; write a [data] table")
        if isinstance(self.teacher, TeacherTable):
            self._check_mode(self.teacher)
        if self.connection is not None:
            server, servers = self.connection.server, self.policy.servers
            if server is not None and servers is not None and server not in servers:
                raise SettingsError(
                    f"connection.server {server} is not in policy.servers; name it there too"
                )
            if self.connection.insecure:
                for address in self.servers:
                    refuse_plain_text(address)
        return self

    def _check_mode(self, teacher: TeacherTable) -> None:
        """Check that the teacher's training and the release mode belong together."""
        for mode, wanted in (("pate", bool(teacher.voters)), ("dp-teacher", teacher.private)):
            if (self.policy.mode == mode) != bool(wanted):
                raise SettingsError(
                    f"policy.mode is {self.policy.mode}: pate needs teacher.voters and dp-teacher "
                    "needs [teacher.private], and no other mode takes them"
                )
        shrunk = teacher.shrunk
        if shrunk is not None and teacher.voters:
            raise SettingsError(
                f"{teacher.voters} voters cannot be shrunk, since each answers for samples of its "
                "own; take [teacher.shrunk] away"
            )
        if shrunk is not None and (shrunk.private is None) != (teacher.private is None):
            raise SettingsError(
                "the teacher and its narrower form are trained on the same images, so both are "
                "private or neither; write [teacher.private] and [teacher.shrunk.private], or none"
            )

    @property
    def effective_policy(self) -> Policy:
        """The policy that the institution applies.

        Without ``policy.budget`` the target of [teacher.private] is the budget: one DP training.
        That of [teacher.shrunk.private] adds to it.
        """
        policy, teacher = self.policy.to_policy(), self.teacher
        private = teacher.private if isinstance(teacher, TeacherTable) else None
        if private is None or policy.budget is not None:
            return policy
        budget = Budget(private.epsilon, private.delta)
        shrunk = teacher.shrunk if isinstance(teacher, TeacherTable) else None
        if shrunk is not None and shrunk.private is not None:
            budget = budget.and_another(shrunk.private.epsilon, shrunk.private.delta)
        return replace(policy, budget=budget)

    @property
    def servers(self) -> frozenset[str]:
        """host:port of every coordinator that may be dialled."""
        named = self.connection.server if self.connection else None
        return (self.policy.servers or frozenset()) | ({named} if named else frozenset())


def load_owner_config(path: Path) -> OwnerConfig:
    """Read and validate an owner's file.

    Raises:
        SettingsError: unreadable, without a policy, an unknown key, or a value that cannot be.
    """
    values = read_toml(path)
    if "policy" not in values:
        raise SettingsError(
            f"{path.name} has no [policy], so nothing may be asked; write one, such as "
            '[policy] signals = ["logits"] samples = 20000'
        )
    folder = path.resolve().parent
    values["teacher"] = _teacher(values.get("teacher", {}), folder)
    values.setdefault("state", {})
    return validate_settings(OwnerConfig, values, folder)


def _teacher(table: object, folder: Path) -> TeacherTable | TeacherSpec:
    """The [teacher] table: of a teacher that is trained here, or of an external one."""
    if not isinstance(table, dict):
        raise SettingsError(f"teacher = {table!r}: expected a table; write [teacher]")
    if table.get("source", "trained") != "trained":
        return spec_from_table(table, folder)
    return validate_settings(TeacherTable, table, folder, within="teacher")
