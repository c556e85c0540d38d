"""Sections of an experiment file: settings with their types, defaults and ranges.

    name = "digits"
    [institutions]      who answers: data, partition, teachers. Read by simulated institutions
    [privacy]           what differential privacy they promise, and how; left out: none
    [policy]            what they release
    [method]            the paper and its arguments
    [images]            procedural priors
    [student]           what is trained, how long
    [questions]         budget, batch, rule

Every default stands here once or in the factory that it configures. Unknown keys are errors.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fedkd.errors import SettingsError
from fedkd.experiment.toml_settings import Section


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("a class stands twice in one set")
    return names


Label = Annotated[str, Field(min_length=1, max_length=64)]
LabelSet = Annotated[tuple[Label, ...], Field(min_length=1), AfterValidator(_distinct)]


class Institutions(Section):
    """Simulated institutions: in deployment each owner has a file of his own instead."""

    data: str = "digits"
    """digits, torchvision:NAME, folder:, parquet: or npz:, see `fedkd.data.datasets`."""
    root: str | None = None
    """Folder or file of the data; digits needs none."""
    count: int = Field(5, ge=1, le=10_000)
    partition: Literal["iid", "dirichlet", "shards", "file"] = "dirichlet"
    alpha: float = Field(0.5, gt=0)
    """Concentration of the Dirichlet partition; small is skewed."""
    shards: int = Field(2, ge=1)
    """Label shards for each institution."""
    partition_file: str | None = None
    """.npz of index arrays client_0, client_1, ..."""
    partition_seed: int = 0
    labels: tuple[LabelSet, ...] = ()
    """Names of the classes that an institution knows, dealt in turn; none: everybody knows all."""
    models: tuple[str, ...] = ("cnn",)
    """Architectures, dealt in turn."""
    epochs: int = Field(40, ge=1)
    batch: int = Field(32, ge=2)
    learning_rate: float = Field(5e-3, gt=0)
    shift: int = Field(0, ge=0)
    """Most pixels by which images are shifted, in another way in each epoch, see `fedkd.core.augmentation`;
    training with differential privacy moves none."""
    mirrors: bool = False
    """Whether half of them are mirrored."""


class Privacy(Section):
    """How simulated institutions keep their images private, see `fedkd.client.release`.

    dp-teacher trains with differential privacy, see `fedkd.client.vault.training.supervised`: such a teacher takes the place
    of one trained by ``institutions.epochs``, ``batch`` and ``learning_rate``. pate and local-dp
    answer with noise. Noise has no seed: no two runs are the same, bit for bit.
    """

    mode: Literal["none", "dp-teacher", "pate", "local-dp"] | None = None
    """Left out: dp-teacher where there is an epsilon, else none."""
    epsilon: float | None = Field(None, gt=0)
    """Of each institution: of its teacher's training, or of all its answers together; left out, no
    privacy is promised and none is paid for."""
    delta: float = Field(1e-5, gt=0, lt=1)
    voters: int = Field(100, ge=1)
    """Of pate: teachers of each institution, each of images of its own."""
    noise: float | None = Field(None, gt=0)
    """Of pate, in votes, and of local-dp, in logits; left out, the least with which epsilon pays
    for ``policy.samples``, or for ``questions.budget``."""
    clipping: float = Field(1.0, gt=0)
    epochs: int = Field(30, ge=1)
    sampling_rate: float = Field(0.05, gt=0, le=1)
    """Chance of each image to take part in a step."""
    learning_rate: float = Field(5e-3, gt=0)
    accountant: Literal["prv", "rdp"] = "prv"

    @property
    def way(self) -> str:
        """The mode, found where it is left out."""
        return self.mode or ("none" if self.epsilon is None else "dp-teacher")

    @model_validator(mode="after")
    def _promised(self) -> Self:
        if (self.way == "none") != (self.epsilon is None):
            raise SettingsError(
                f"privacy.mode {self.way} with epsilon {self.epsilon}; give an epsilon exactly "
                "where privacy is promised"
            )
        return self


class PolicySection(Section):
    """What every simulated institution releases, see `fedkd.privacy.release_policy`."""

    signals: tuple[str, ...] = ("logits",)
    pull_back: bool = False
    samples: int | None = Field(None, ge=1)
    largest_batch: int = Field(4096, ge=1)
    class_counts: bool = True
    scores: bool = True
    recipes: bool = True
    labels: bool = False
    top_k: int | None = Field(None, ge=1)
    rounding: int | None = Field(None, ge=1)
    clipping: float = Field(8.0, gt=0)
    """Of local-dp."""


class MethodSection(BaseModel):
    """The paper's name; all else is handed to its factory."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "cudfkd"

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the factory."""
        return dict(self.model_extra or {})


class Images(Section):
    """Procedural priors, see `fedkd.procedural.priors`."""

    priors: tuple[str, ...] = ("pink", "leaves", "levels", "scales")
    warp: float = Field(0.0, ge=0, le=1)
    """Share of images that are warped."""
    mix: float = Field(0.0, ge=0, le=1)
    """Share of images that are mixed with another by a blob mask."""
    collected: str | None = None
    """The coordinator's own, for methods that need some: a folder, an .npz file or typeset-digits,
    see `fedkd.server.run.public_data`."""


class Student(Section):
    """What is trained."""

    model: str = "cnn"
    steps: int = Field(1000, ge=0)
    batch: int = Field(128, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    shift: int = Field(0, ge=0)
    """Most pixels by which a banked image is shifted each time that it is learned; the answer
    stays."""
    mirrors: bool = False
    """Whether half of them are mirrored; the answer stays."""
    threads: int = Field(1, ge=1)
    """Of the process that trains it. Sums depend on their number; small networks gain nothing."""
    device: str = "auto"
    """Where it, the generator and the bank are: cpu, cuda, ...; auto is cuda where there is any."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of its convolutions and products; auto is bfloat16 on cuda alone. Weights are float32."""


class Questions(Section):
    """How much is asked, and how the replies are fused."""

    budget: int = Field(12_800, ge=1)
    """Samples asked of each institution, never exceeded."""
    batch: int = Field(64, ge=1)
    asking: float = Field(0.6, ge=0, le=1)
    """Share of the student's steps over which the questions are spread."""
    recipes: bool = True
    """Name images by recipe where an institution can draw them, in the place of showing them."""
    rule: str = "auto"
    capacity: int | None = Field(None, ge=1)
    quorum: int = Field(1, ge=1)
    """Fewest institutions that must answer a question."""
    timeout: float = Field(60.0, gt=0)
    """Seconds that one question may take."""
    linger: float | None = Field(None, ge=0)
    """Seconds of them that the others may take once a quorum has answered; all, where not given."""
    overlap: bool = True
    """Whether the student learns while answers travel. No number depends on it."""
    address: str = "127.0.0.1:0"
    """Where the hub listens, host:port; port 0 for any that is free."""


class Experiment(Section):
    """All of it, resolved."""

    name: str
    seed: int = 0
    institutions: Institutions = Institutions()
    privacy: Privacy = Privacy()
    policy: PolicySection = PolicySection()
    method: MethodSection = MethodSection()
    images: Images = Images()
    student: Student = Student()
    questions: Questions = Questions()
