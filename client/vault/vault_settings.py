"""Settings of an institution's data partition, teacher model and training."""

from dataclasses import asdict, dataclass, field

from fedkd.client.vault.training.settings import DpSgdSettings, SupervisedSettings
from fedkd.errors import SettingsError

_STORED_NAMES = {"class_names": "names", "training": "teach", "dp_training": "private"}
"""Fields whose names in the metadata of cached teachers are older than their names here."""


@dataclass(frozen=True)
class Assets:
    """An institution's share of some data, and the model to train on it. Nothing is opened.

    An owner whose data are all his own leaves ``count`` at 1.

    Raises:
        SettingsError: a share that does not exist.
    """

    data: str = "digits"
    """A name that `fedkd.data.datasets.open_data` knows."""
    root: str | None = None
    """Folder of the data."""
    index: int = 0
    """Number of his share, 0..count-1."""
    count: int = 1
    """Institutions that share the data."""
    partition: str = "iid"
    """iid, dirichlet, shards, column, or file."""
    partition_column: str | None = None
    """Column by which the rows of a table are dealt out, where the partition is ``column``."""
    alpha: float = 0.5
    """Concentration of a Dirichlet partition."""
    shards: int = 2
    """Label shards for each institution."""
    partition_file: str | None = None
    """.npz of index arrays, where the partition is ``file``."""
    partition_seed: int = 0
    """The same for all who share the data."""
    labels: tuple[tuple[str, ...], ...] = ()
    """Label sets, assigned to the institutions in turn; none: every institution has all classes."""
    class_names: tuple[str, ...] = ()
    """Names of the classes of the data, in their order; none: numbers."""
    tasks: tuple[tuple[str, ...], ...] = ()
    """Sets of the data's tasks, assigned to the institutions in turn; none: each labels all."""
    tasks_as_classes: bool = False
    """Whether the classes of the data's tasks are called classes of one task, ``task: class``."""
    task: str | None = None
    """Of which federation's task the classes of the data are; None: they are all there is."""
    model: str = "cnn"
    """A name that `fedkd.client.vault.training.supervised.train_teacher` knows."""
    seed: int = 0
    """Of the training; institutions with one seed still train differently, by their index."""
    training: SupervisedSettings = field(default_factory=SupervisedSettings)
    dp_training: DpSgdSettings | None = None
    """Where given, the teacher is trained with differential privacy, instead of by ``training``."""
    embedding: int | None = None
    """Width of the embedding that the model is trained to output by the classes of the data, which
    it then does not predict; None: it predicts."""
    gallery: int = 0
    """Training samples of shared data that nobody gets, see `fedkd.data.gallery`."""
    voters: int = 0
    """PATE teachers, each trained by ``training`` on samples of its own; 0: one teacher on all.
    To be chosen without looking at the data."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise SettingsError(
                f"institution {self.index} of {self.count}; expected 0 to {self.count - 1}"
            )
        if self.voters < 0 or (self.voters and self.dp_training is not None):
            raise SettingsError(
                f"{self.voters} voters; expected 0 or more, and 0 beside a private training"
            )
        if self.embedding is not None and (self.embedding < 1 or self.voters or self.dp_training):
            raise SettingsError(
                f"an embedding {self.embedding} wide; expected 1 or more, and neither voters nor a "
                "private training: its loss is of pairs, of which no promise is known here"
            )
        if (self.partition == "file") != (self.partition_file is not None):
            raise SettingsError(
                f"partition {self.partition!r} with partition_file {self.partition_file!r}; "
                f"give a file exactly where the partition is 'file'"
            )
        if (self.partition == "column") != (self.partition_column is not None):
            raise SettingsError(
                f"partition {self.partition!r} with partition_column {self.partition_column!r}; "
                f"name a column exactly where the partition is 'column'"
            )

    @property
    def cache_fields(self) -> dict[str, object]:
        """All fields as the metadata of a cached teacher name them.

        What a teacher does not have is left out, as before it existed, and augmentation is called
        views: teachers that were cached then are found again.
        """
        fields = asdict(self)
        late_fields = ("partition_column", "tasks", "tasks_as_classes", "task")
        for late in (*late_fields, "embedding", "gallery"):
            if not fields[late]:
                del fields[late]
        augmentation = fields["training"].pop("augmentation")
        if self.training.augmentation:
            fields["training"]["views"] = augmentation
        return {_STORED_NAMES.get(name, name): value for name, value in fields.items()}
