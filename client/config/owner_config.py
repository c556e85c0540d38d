"""An owner's file: what his institution is called, has, releases, and whom it dials.

    name = "north"
    [teacher]      where the model that answers comes from
    [data]         the private images, where the teacher is trained here
    [policy]       what may be asked. What is not named is refused
    [connection]   the coordinator, and the TLS files by which both prove who they are
    [state]        where ledger, teacher and socket lie

It knows the words that may stand there and opens nothing but the files of the connection. Paths
are relative to the file. `fedkd.client.config.template` is a commented one.
"""

import ssl
from dataclasses import replace
from datetime import UTC, datetime, time
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, Self

from cryptography import x509
from pydantic import AfterValidator, Field, model_validator

from fedkd.client.vault.teachers.teacher_spec import TeacherSpec, spec_from_table
from fedkd.errors import SettingsError
from fedkd.experiment import ResolvedPath, Section, read_toml, validate_settings
from fedkd.privacy import Budget, Policy
from fedkd.protocol import Signal
from fedkd.wire import MAX_NAME_LENGTH
from fedkd.wire.channel import grpc, host_of, refuse_plain_text


def _address(address: str) -> str:
    host_of(address)
    return address


Address = Annotated[str, AfterValidator(_address)]
"""host:port."""
Count = Annotated[int, Field(ge=1)]


class DpTrainingTable(Section):
    """The fields of `fedkd.client.vault.training.supervised.DpSgdSettings`: a training with differential privacy."""

    epsilon: float = Field(gt=0)
    delta: float = Field(1e-5, gt=0, lt=1)
    clipping: float = Field(1.0, gt=0)
    epochs: Count = 30
    sampling_rate: float = Field(0.05, gt=0, le=1)
    learning_rate: float = Field(5e-3, gt=0)
    accountant: Literal["prv", "rdp"] = "prv"


class TeacherTable(Section):
    """A model trained here, on the images of [data]. `TeacherSpec` is of one that is brought."""

    source: Literal["trained"] = "trained"
    model: str = "cnn"
    """A key of `fedkd.models.MODELS`, or sklearn:NAME."""
    epochs: Count = 40
    batch: int = Field(32, ge=2)
    learning_rate: float = Field(5e-3, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    seed: int = 0
    class_names: tuple[str, ...] = ()
    """What the classes of [data] are called, in their order; none: by their numbers."""
    voters: int = Field(0, ge=0)
    """Of mode pate: teachers that vote, each trained on images of its own."""
    private: DpTrainingTable | None = None
    """Of mode dp-teacher: takes the place of epochs, batch and rates."""


class DataTable(Section):
    """Private images. All but ``source`` and ``root`` is for rehearsals on shared data."""

    source: str
    """digits, torchvision:NAME, folder:PATH, parquet:PATH or npz:PATH, see `fedkd.data.datasets`."""
    root: ResolvedPath = Field(Path(), validate_default=True)
    """Folder to which PATH is relative."""
    index: int = Field(0, ge=0)
    count: Count = 1
    partition: Literal["iid", "dirichlet", "shards", "file"] = "iid"
    alpha: float = Field(0.5, gt=0)
    shards: Count = 2
    partition_file: ResolvedPath | None = None
    partition_seed: int = 0


class BudgetTable(Section):
    """The fields of `fedkd.privacy.budget.Budget`."""

    epsilon: float = Field(gt=0)
    delta: float = Field(1e-5, gt=0, lt=1)


class PolicyTable(Section):
    """The fields of `fedkd.privacy.release_policy.Policy`. Signals and samples have no default here."""

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
    recipes: bool = True
    labels: bool = False
    top_k: Count | None = None
    rounding: Count | None = None
    mode: str = "none"
    budget: BudgetTable | None = None
    noise: float | None = Field(None, gt=0)
    clipping: float = Field(8.0, gt=0)

    @property
    def word(self) -> Policy:
        """As the institution obeys it."""
        said = dict(self)
        said["budget"] = None if self.budget is None else Budget(**dict(self.budget))
        # Decimal, as it is written in the file, and not as it is rounded to binary.
        said["noise"] = None if self.noise is None else Fraction(str(self.noise))
        said["clipping"] = Fraction(str(self.clipping))
        return Policy(**said)


class Connection(Section):
    """Whom to dial, and how both ends prove who they are."""

    server: Address | None = None
    ca: ResolvedPath | None = None
    """Certificate of the authority that signed the coordinator's."""
    certificate: ResolvedPath | None = None
    """The institution's own; its name must stand in it."""
    key: ResolvedPath | None = None
    token_file: ResolvedPath | None = None
    """Of the run, or of this institution. Flower's bell brings its own instead."""
    insecure: bool = False
    """NoiselessRelease text, to a coordinator on this machine only."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        files = (self.ca, self.certificate, self.key)
        if self.insecure and any(files):
            raise SettingsError("connection.insecure = true beside TLS files; keep one of them")
        if not self.insecure and not all(files):
            raise SettingsError(
                "connection needs ca, certificate and key, the files of TLS; only to a "
                "coordinator on this machine will insecure = true do instead"
            )
        return self

    def credentials(self) -> grpc.ChannelCredentials | None:
        """TLS both ways; None for plain text.

        Raises:
            SettingsError: a file is missing, has expired, does not fit the others, or is a key
                that others can read.
        """
        if self.ca is None or self.certificate is None or self.key is None:
            return None
        ca, chain = _content(self.ca, "connection.ca"), _content(self.certificate, "certificate")
        key = _secret(self.key, "connection.key")
        try:
            context = ssl.create_default_context(cadata=ca.decode("ascii"))
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
            expiry = x509.load_pem_x509_certificate(chain).not_valid_after_utc
        except (ssl.SSLError, ValueError):
            raise SettingsError(
                "connection.ca, certificate and key do not fit together; each must be a PEM file, "
                "and the key, without a password, that of the certificate"
            ) from None
        if expiry < datetime.now(UTC):
            raise SettingsError(f"connection.certificate expired on {expiry:%Y-%m-%d}; renew it")
        return grpc.ssl_channel_credentials(ca, key, chain)

    def token(self) -> str | None:
        """What stands in the token file; None where there is none.

        Raises:
            SettingsError: it is empty, or others can read it.
        """
        if self.token_file is None:
            return None
        token = _secret(self.token_file, "connection.token_file").decode("utf-8", "replace")
        if not token.strip():
            raise SettingsError("connection.token_file is empty; ask the coordinator for a token")
        return token.strip()


class State(Section):
    """Where the institution keeps what is its own."""

    folder: ResolvedPath = Field(Path("state"), validate_default=True)
    """Of ledger and teacher; readable to the owner alone."""
    socket: ResolvedPath | None = None
    """Where Flower's ClientApp may ring; None for agent.sock in the folder."""
    socket_group: str | None = None
    """Whose members may ring, where Flower runs as another user. The socket then needs a folder
    of its own, which they can enter."""

    @property
    def bell(self) -> Path:
        """The socket."""
        return self.socket or self.folder / "agent.sock"

    @property
    def ledger(self) -> Path:
        """What was asked and charged."""
        return self.folder / "ledger.sqlite"


class OwnerConfig(Section):
    """All of it, resolved."""

    name: str = Field(min_length=1, max_length=MAX_NAME_LENGTH)
    teacher: TeacherTable | TeacherSpec
    data: DataTable | None = None
    policy: PolicyTable
    connection: Connection | None = None
    state: State

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _ = self.policy.word  # raises where no policy can say that
        if isinstance(self.teacher, TeacherTable) and self.data is None:
            raise SettingsError("a teacher that is trained here needs images; write a [data] table")
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
        """A teacher that is trained for a mode is served in it, and in no other."""
        for mode, wanted in (("pate", bool(teacher.voters)), ("dp-teacher", teacher.private)):
            if (self.policy.mode == mode) != bool(wanted):
                raise SettingsError(
                    f"policy.mode is {self.policy.mode}: pate needs teacher.voters and dp-teacher "
                    "needs [teacher.private], and no other mode takes them"
                )

    @property
    def word(self) -> Policy:
        """The policy as the institution obeys it.

        Images have one private teacher, and another only where ``policy.budget`` pays for both.
        """
        said, private = self.policy.word, getattr(self.teacher, "private", None)
        if private is None or said.budget is not None:
            return said
        return replace(said, budget=Budget(private.epsilon, private.delta))

    @property
    def servers(self) -> frozenset[str]:
        """host:port of every coordinator that may be dialled."""
        named = self.connection.server if self.connection else None
        return (self.policy.servers or frozenset()) | ({named} if named else frozenset())


def load(path: Path) -> OwnerConfig:
    """Read an owner's file.

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
    """What the [teacher] table says: of one to be trained here, or of one that is brought."""
    if not isinstance(table, dict):
        raise SettingsError(f"teacher = {table!r}: expected a table; write [teacher]")
    if table.get("source", "trained") != "trained":
        return spec_from_table(table, folder)
    return validate_settings(TeacherTable, table, folder, within="teacher")


def _content(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read {what}, {path}: {error.strerror}") from error


def _secret(path: Path, what: str) -> bytes:
    """What stands in a file that nobody but the owner may read."""
    content = _content(path, what)
    if others := path.stat().st_mode & 0o077:
        raise SettingsError(
            f"{what}, {path}, is open to others (mode {others:03o}); chmod 600 it, and renew what "
            "is in it if somebody may have read it"
        )
    return content


def _no_password() -> str:
    """In the place of OpenSSL's, which would ask at the terminal."""
    raise ValueError("the key has a password")
