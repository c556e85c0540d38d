"""The data, partition and network of an experiment, as baselines use them.

No vault, policy or ledger: a baseline trains on the data themselves, in whatever way it is known.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from fedkd.data.dataset import Dataset
from fedkd.data.datasets import open_data
from fedkd.data.partition_from_settings import partition_from_settings
from fedkd.errors import SettingsError
from fedkd.evaluation import accuracy, predict_logits
from fedkd.experiment import Experiment
from fedkd.experiment.sections import Institutions
from fedkd.models import build_network, build_table_network
from fedkd.protocol import as_float

BATCH = 64
"""Images of a step of local training."""
LEARNING_RATE, MOMENTUM = 0.02, 0.9
"""Of SGD, in local and in central training."""


@dataclass(frozen=True)
class Row:
    """What one baseline came to."""

    name: str
    accuracy: float
    """On all test images, in [0, 1]."""
    rounds: int
    """Of communication."""
    bytes_sent: int
    """From and to all institutions."""
    seconds: float
    """Of the call that ended it."""
    sees: str
    """What the coordinator sees."""
    epsilon: float | None = None
    """Spent by each institution on one of its images; None: no promise."""


@dataclass(frozen=True)
class Federation:
    """Data, and who has which."""

    experiment: Experiment
    data: Dataset
    parts: tuple[Tensor, ...]
    """Indices of each institution's training images."""

    def network(self) -> nn.Module:
        """The student's network, with fresh weights.

        Raises:
            SettingsError: there is none of that name for such samples.
        """
        name, d, seed = self.experiment.student.model, self.data, self.experiment.seed
        if d.columns:
            return build_table_network(name, d.classes, d.columns, seed, imports=True)
        return build_network(name, d.classes, d.shape, seed, imports=True)

    def share(self, index: int) -> tuple[Tensor, Tensor]:
        """An institution's training images, uint8 (N, C, H, W), and labels (N,)."""
        part = self.parts[index]
        return self.data.train_images[part], self.data.train_labels[part]

    def test_accuracy(self, network: nn.Module) -> float:
        """On all test images."""
        return accuracy(predict_logits(network, self.data.test_images), self.data.test_labels)


@lru_cache(maxsize=1)
def federation_of(settings: str) -> Federation:
    """The federation of an experiment in JSON; cached, since a process opens it for every message.

    Raises:
        SettingsError: institutions that differ in more than their images, numbers or several
            tasks, which no baseline trains on; otherwise as in a run of the experiment.
        DataError: as in a run of the experiment.
    """
    experiment = Experiment.model_validate_json(settings)
    i = experiment.institutions
    _check_partition(i)
    data = open_data(i.data, i.root)
    if data.numbers or data.tasks:
        labels = "numbers" if data.numbers else "several tasks"
        raise SettingsError(
            f"labels of {i.data!r} are {labels}: baselines train one network for the classes of "
            "one task; choose an experiment with such data"
        )
    parts = partition_from_settings(data, i)
    return Federation(experiment, data, parts)


def _check_partition(institutions: Institutions) -> None:
    """Refuse what would make other institutions of a run than of a baseline."""
    i = institutions
    given = {
        "labels": i.labels,
        "present": i.present,
        "tasks": i.tasks,
        "embedding": i.embedding,
        "partition_column": i.partition_column,
    }
    if found := [f"institutions.{name}" for name, value in given.items() if value]:
        raise SettingsError(
            f"{', '.join(found)}: baselines train one network for all classes on images of all "
            "institutions; leave that out, or choose another experiment"
        )


def train_locally(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    epochs: int,
    seed: int,
    progress: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Plain local training, in place: SGD with momentum on the cross-entropy.

    Args:
        network: (B, C, H, W) in [0, 1] -> (B, K).
        images: uint8 (N, C, H, W).
        labels: (N,) int64.
        epochs: passes over them.
        seed: of the order.
        progress: called after each epoch.
    """
    network.train()
    order = torch.Generator().manual_seed(seed)
    sgd = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=MOMENTUM)
    for epoch in range(epochs):
        for picked in torch.split(torch.randperm(len(images), generator=order), BATCH):
            if len(picked) < 2:  # one image alone has no variance for batch norm
                continue
            loss = nn.functional.cross_entropy(network(as_float(images[picked])), labels[picked])
            sgd.zero_grad()
            torch.autograd.backward(loss)
            sgd.step()
        progress(epoch + 1)


def check_private(network: nn.Module) -> None:
    """Check that Opacus can train ``network`` by DP-SGD.

    Raises:
        SettingsError: it cannot, as with batch norm.
    """
    from opacus.validators import ModuleValidator  # takes a second

    if errors := ModuleValidator.validate(network, strict=False):
        raise SettingsError(
            f"student.model cannot be trained by DP-SGD ({str(errors[0]).splitlines()[0]}); choose "
            "one without batch norm, or --only rows without fedavg-dp"
        )


def bytes_of(network: nn.Module) -> int:
    """Of all weights and running statistics, as they travel."""
    return sum(t.numel() * t.element_size() for t in network.state_dict().values())
