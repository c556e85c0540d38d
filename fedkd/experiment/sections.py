"""Sections of an experiment file: settings with their types, defaults and ranges.

    name = "digits"
    examiner            tries policies in episodes
    [institutions]      simulated institutions: data, partition, teachers
    [privacy]           their differential privacy: mode, epsilon, delta; left out: none
    [policy]            their release policy
    [expect]            what cards of institutions must say
    [method]            the paper and its arguments
    [images]            synthetic and public images: priors
    [rows]              synthetic rows of tables: priors
    [student]           the student and its training
    [grow]              the finished run whose student goes on
    [questions]         queries: budget, batch, aggregation

Every default is defined here or in the factory that it configures. Unknown keys are errors.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from fedkd.errors import SettingsError
from fedkd.experiment.grow_section import Grow
from fedkd.experiment.setting_types import ADAPTIVE, ClassPrior, Linger
from fedkd.experiment.toml_settings import Section


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError("a name is there twice in one set")
    return names


Label = Annotated[str, Field(min_length=1, max_length=64)]
Side = Annotated[int, Field(ge=1)]
LabelSet = Annotated[tuple[Label, ...], Field(min_length=1), AfterValidator(_distinct)]


class Institutions(Section):
    """Simulated institutions; in deployment each owner has a file of its own instead."""

    data: str = "digits"
    """digits, torchvision:NAME, folder:, parquet:, npz: or table:, see `fedkd.data.datasets`, or
    package.module:factory."""
    root: str | None = None
    """Folder or file of the data; digits needs none."""
    count: int = Field(5, ge=1, le=10_000)
    present: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Numbers from 0 of those that take part; data are dealt out among all. None: all do."""
    partition: Literal["iid", "dirichlet", "shards", "column", "file"] = "dirichlet"
    partition_column: str | None = None
    """Name of the column of a table by which rows are sorted and dealt out."""
    alpha: float = Field(0.5, gt=0)
    """Concentration of the Dirichlet partition; small is skewed."""
    shards: int = Field(2, ge=1)
    """Shards for each institution."""
    partition_file: str | None = None
    """.npz of index arrays client_0, client_1, ..."""
    partition_seed: int = 0
    labels: tuple[LabelSet, ...] = ()
    """Names of the classes that an institution knows, assigned round-robin; none: all know all."""
    tasks: tuple[LabelSet, ...] = ()
    """Of data with several tasks: names of those that an institution labels, assigned round-robin;
    none: each labels all."""
    tasks_as_classes: bool = False
    """A control: institutions call the classes of their tasks classes of one task, so that answers
    are fused, and learned, as one softmax over all of them."""
    models: tuple[str, ...] = ("cnn",)
    """Architectures of teachers, assigned round-robin; names as those of ``student.model``, or
    sklearn:NAME."""
    epochs: int = Field(40, ge=1)
    batch: int = Field(32, ge=2)
    learning_rate: float = Field(5e-3, gt=0)
    shift: int = Field(0, ge=0)
    """Largest random shift in pixels, drawn again in each epoch, see `fedkd.core.augmentation`;
    none in training with differential privacy."""
    mirrors: bool = False
    """Whether images are mirrored with probability 1/2."""
    embedding: int | None = Field(None, ge=1, le=10_000)
    """Width of the embedding that teachers output, trained by classes (supervised contrastive);
    left out: they predict."""
    gallery: int = Field(0, ge=0)
    """Training samples that no institution gets; in the evaluation of embeddings test samples are
    searched among them. 0: among all other test samples."""

    @property
    def taking_part(self) -> tuple[int, ...]:
        """Numbers of those that take part, increasing."""
        return tuple(sorted(self.present)) or tuple(range(self.count))

    @model_validator(mode="after")
    def _present_among_all(self) -> Self:
        if len(set(self.present) & set(range(self.count))) < len(self.present):
            raise SettingsError(
                f"institutions.present {self.present}: each once, from 0 to {self.count - 1}"
            )
        return self


class Privacy(Section):
    """Differential privacy of simulated institutions, see `fedkd.client.release`.

    dp-teacher trains with DP-SGD, see `fedkd.client.vault.training.supervised`: such a teacher
    replaces one trained by ``institutions.epochs``, ``batch`` and ``learning_rate``. pate and
    local-dp answer with noise. Noise has no seed: no two runs are the same, bit for bit.
    """

    mode: Literal["none", "dp-teacher", "pate", "local-dp"] | None = None
    """Left out: dp-teacher where there is an epsilon, else none."""
    epsilon: float | None = Field(None, gt=0)
    """Of each institution: of its teacher's training, or of all its answers together; left out, no
    privacy is guaranteed."""
    delta: float = Field(1e-5, gt=0, lt=1)
    voters: int = Field(100, ge=1)
    """Of pate: teachers in each institution's ensemble, trained on disjoint images."""
    noise: float | None = Field(None, gt=0)
    """Standard deviation, of pate in votes, of local-dp in logits; left out, the smallest with
    which epsilon suffices for ``policy.samples``, or for ``questions.budget``."""
    clipping: float = Field(1.0, gt=0)
    epochs: int = Field(30, ge=1)
    sampling_rate: float = Field(0.05, gt=0, le=1)
    """Probability of each image to take part in a step."""
    learning_rate: float = Field(5e-3, gt=0)
    accountant: Literal["prv", "rdp"] = "prv"

    @property
    def effective_mode(self) -> str:
        """The mode, or its default where it is left out."""
        return self.mode or ("none" if self.epsilon is None else "dp-teacher")

    @model_validator(mode="after")
    def _epsilon_where_needed(self) -> Self:
        if (self.effective_mode == "none") != (self.epsilon is None):
            raise SettingsError(
                f"privacy.mode {self.effective_mode} with epsilon {self.epsilon}; give an epsilon "
                "exactly where privacy is guaranteed"
            )
        return self


class PolicySection(Section):
    """Release policy of every simulated institution, see `fedkd.privacy.release_policy`."""

    signals: tuple[str, ...] = ("logits",)
    pull_back: bool = False
    samples: int | None = Field(None, ge=1)
    largest_batch: int = Field(4096, ge=1)
    class_counts: bool = True
    scores: bool = True
    batch_statistics: bool = False
    recipes: bool = True
    labels: bool = False
    top_k: int | None = Field(None, ge=1)
    rounding: int | None = Field(None, ge=1)
    clipping: float = Field(8.0, gt=0)
    """Of local-dp."""


def _classes(value: object) -> object:
    """Checks the classes of `Expect`; a list from TOML becomes a tuple."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    names = tuple(value) if isinstance(value, list | tuple) else ()
    if (
        not names
        or not all(isinstance(name, str) for name in names)
        or len(set(names)) < len(names)
    ):
        raise ValueError("expected a number of classes, or a list of their names, each once")
    return names


class Expect(Section):
    """What the card of every institution must say; others are refused when they connect."""

    classes: Annotated[int | tuple[Label, ...] | None, BeforeValidator(_classes)] = None
    """A number: each has exactly so many; names: each knows some of these and no others."""
    shape: tuple[Side, Side, Side] | None = None
    """(C, H, W) of the images that its teacher reads."""


class MethodSection(BaseModel):
    """The paper's name; all else is handed to its factory."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "cudfkd"

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the factory."""
        return dict(self.model_extra or {})


class Images(Section):
    """Procedural priors, see `fedkd.procedural.image_priors`, and public images."""

    priors: tuple[str, ...] = ("pink", "leaves", "levels", "scales")
    warp: float = Field(0.0, ge=0, le=1)
    """Share of images that are warped."""
    mix: float = Field(0.0, ge=0, le=1)
    """Share of images that are mixed with another by a blob mask."""
    public: str | tuple[str, ...] | None = None
    """Public images of the coordinator, for methods that need some: typeset-digits, a folder, or a
    data set by name, see `fedkd.server.run.public_data_loading`; a list joins several."""
    public_root: str | None = None
    """Folder of the public images; None for the current folder."""
    public_counts: tuple[Side, ...] = ()
    """How many of each name in ``public``, the first ones; left out: all."""
    public_trim: bool = False
    """Whether public images are first cut to the smallest square around what they show."""

    @property
    def public_names(self) -> tuple[str, ...]:
        """Each name in ``public``."""
        return (self.public,) if isinstance(self.public, str) else self.public or ()

    @model_validator(mode="after")
    def _counts_of_all(self) -> Self:
        names = self.public_names
        if len(set(names)) < len(names) or (
            self.public_counts and len(self.public_counts) != len(names)
        ):
            raise SettingsError(
                f"images.public names {len(names)} data sets and images.public_counts "
                f"{len(self.public_counts)}; name each once, with a count for each or none at all"
            )
        return self


class Rows(Section):
    """Distributions of rows, where teachers read tables, see `fedkd.procedural.table_priors`."""

    priors: tuple[str, ...] = (
        *("uniform", "gaussian", "latin-hypercube", "pairwise"),
        *("correlated", "skewed"),
    )


class Student(Section):
    """The student and its training."""

    model: str = "cnn"
    """A key of `fedkd.models.MODELS`, timm:NAME, torchvision:NAME, or package.module:factory."""
    estimator: Literal["none", "boosted_trees", "linear"] = "none"
    """An estimator of scikit-learn trained besides at the end, where teachers read tables, see
    `fedkd.models.deployable_estimator`."""
    steps: int = Field(1000, ge=0)
    batch: int = Field(128, ge=1)
    loss: str = "auto"
    """Where teachers predict numbers: squared, huber or quantile; auto is squared."""
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon for all layers but the first and the last, and AdamW for these, see
    `fedkd.student.optimizers`. Its steps take longer, and fit answers sooner."""
    shift: int = Field(0, ge=0)
    """Largest random shift in pixels of an image from the bank; its target stays the same."""
    mirrors: bool = False
    """Whether images are mirrored with probability 1/2; their targets stay the same."""
    threads: int = Field(1, ge=1)
    """Of the training process. Sums depend on their number; small networks gain nothing."""
    device: str = "auto"
    """Of student, generator and bank: cpu, cuda, ...; auto is cuda where it is available."""
    precision: Literal["auto", "fastest", "float32", "bfloat16"] = "auto"
    """Of convolutions and matrix products; auto is bfloat16 on cuda only, fastest wherever the
    device has units for it. Weights are float32."""


class Questions(Section):
    """Queries: how many, how they are sent, and how replies are aggregated."""

    budget: int = Field(12_800, ge=1)
    """Query budget: samples for each institution, never exceeded."""
    batch: int = Field(64, ge=1)
    """Samples in one query."""
    asking: float = Field(0.6, ge=0, le=1)
    """Share of the student's steps over which the queries are spread."""
    batch_statistics: bool = False
    """Ask for answers by the statistics of each batch, where all teachers have batch norm; the
    student's statistics are then taken anew where it is used, see `fedkd.core.batch_norm`."""
    recipes: bool = True
    """Send recipes instead of images where an institution can render them."""
    rule: str = "auto"
    """Aggregation rule, see `fedkd.aggregation.fusion_rules`."""
    prior: ClassPrior = "auto"
    """Class prior of the fused answer, see `fedkd.aggregation.logit_adjustment`: "uniform",
    "as_trained", or a share for each class in the order of the student's outputs; "auto": uniform
    for rules that use class counts, as trained for others."""
    capacity: int | None = Field(None, ge=1)
    """Most samples in the student's bank; None for all."""
    held_back: float = Field(0.05, ge=0, le=0.5)
    """Share of the samples that the student never learns from, and on whose fused answers it is
    evaluated, without any data. 0: none."""
    stop: int | None = Field(None, ge=1)
    """Ask no more after so many evaluations on held-back samples, of 20 in a run, without a better
    agreement, see `fedkd.student.early_stopping`; below the number of evaluations in the share
    ``asking`` of the steps. None: the whole budget is asked."""
    quorum: int = Field(1, ge=1)
    """Fewest institutions that must answer a query."""
    timeout: float = Field(60.0, gt=0)
    """Seconds that one query may take."""
    linger: Linger = ADAPTIVE
    """Seconds to wait for the others once a quorum has answered; "adaptive": 4 times what the
    quorum took, at least 15, see `fedkd.server.hub.linger`; "all": until the timeout."""
    overlap: bool = True
    """Whether the student trains while a query is in flight. No result depends on it."""
    address: str = "127.0.0.1:0"
    """Address of the hub, host:port; port 0 for any that is free."""


class Experiment(Section):
    """A whole experiment, with all defaults."""

    name: str
    seed: int = 0
    examiner: str | None = None
    """Of a simulation whose classes are actions: by whose episodes student, ensemble and teachers
    are scored, a name in `fedkd.simulations.examiners` or package.module:factory; none: nobody."""
    institutions: Institutions = Institutions()
    privacy: Privacy = Privacy()
    policy: PolicySection = PolicySection()
    expect: Expect = Expect()
    method: MethodSection = MethodSection()
    images: Images = Images()
    rows: Rows = Rows()
    student: Student = Student()
    grow: Grow = Grow()
    questions: Questions = Questions()
