"""What an institution has, in its owner's words. Opens nothing."""

from dataclasses import asdict, dataclass, field

from fedkd.client.vault.training.supervised import PrivateSettings, TeachSettings
from fedkd.errors import SettingsError


@dataclass(frozen=True)
class Holding:
    """What an institution has, in its owner's words: its share of some data, and a model.

    An owner whose data are all his own leaves ``count`` at 1.

    Raises:
        SettingsError: a share that does not exist.
    """

    data: str = "digits"
    """A name that `fedkd.data.datasets.open_data` knows."""
    root: str | None = None
    """Where the data lie."""
    index: int = 0
    """Which share is his, 0..count-1."""
    count: int = 1
    """Institutions that share the data."""
    partition: str = "iid"
    """iid, dirichlet, shards, or file."""
    alpha: float = 0.5
    """Concentration of a Dirichlet partition."""
    shards: int = 2
    """Label shards for each institution."""
    partition_file: str | None = None
    """.npz of index arrays, where the partition is ``file``."""
    partition_seed: int = 0
    """The same for all who share the data."""
    labels: tuple[tuple[str, ...], ...] = ()
    """Names of the classes that each of them knows, dealt in turn; none: everybody knows all."""
    names: tuple[str, ...] = ()
    """What the classes of the data are called, in their order; none: by their numbers."""
    model: str = "cnn"
    """A name that `fedkd.client.vault.training.supervised.train_teacher` knows."""
    seed: int = 0
    """Of the training; institutions with one seed still train differently, by their index."""
    teach: TeachSettings = field(default_factory=TeachSettings)
    private: PrivateSettings | None = None
    """Where it is given the teacher is trained with differential privacy, and not by ``teach``."""
    voters: int = 0
    """Teachers that vote, each trained on images of its own by ``teach``; 0: one, on all of them.
    To be chosen without looking at the images."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise SettingsError(
                f"institution {self.index} of {self.count}; expected 0 to {self.count - 1}"
            )
        if self.voters < 0 or (self.voters and self.private is not None):
            raise SettingsError(
                f"{self.voters} voters; expected 0 or more, and 0 beside a private training"
            )
        if (self.partition == "file") != (self.partition_file is not None):
            raise SettingsError(
                f"partition {self.partition!r} with partition_file {self.partition_file!r}; "
                f"give a file exactly where the partition is 'file'"
            )

    @property
    def note(self) -> dict[str, object]:
        """All of it by name, as it is noted beside a teacher that is kept.

        Views are noted where there are any: teachers kept before there were are found again.
        """
        noted = asdict(self)
        if not self.teach.views:
            del noted["teach"]["views"]
        return noted
