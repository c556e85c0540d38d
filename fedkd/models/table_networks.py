"""Neural networks for tables: columns with levels are embedded, numeric ones standardised."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.models.architectures import Network
from fedkd.models.registry import MODELS, build_network, network_factory
from fedkd.protocol import Column, level_index

MAX_EMBEDDING = 8
"""Largest dimension of the embedding of a column's levels."""
DEVIATION = 12**-0.5
"""Standard deviation of a uniform value in [0, 1]."""


class ColumnEmbedding(nn.Module):
    """A row as the input of a network: (B, 1, 1, D) in [0, 1] -> (B, width).

    Numeric columns are standardised as if they were uniform in their range, whatever outliers there
    are; every level of the others has an embedding.

    Args:
        columns: (D,).
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        levels = [len(column.levels) for column in columns]
        self.numeric = [place for place, count in enumerate(levels) if not count]
        self.levelled = [place for place, count in enumerate(levels) if count]
        self.levels = [float(levels[place]) for place in self.levelled]
        sizes = [(levels[place], min(MAX_EMBEDDING, levels[place])) for place in self.levelled]
        self.embeddings = nn.ModuleList(nn.Embedding(*size) for size in sizes)
        self.width = len(self.numeric) + sum(size for _, size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 1, D) -> (B, width)."""
        flat = x.flatten(1)
        parts = [(flat[:, self.numeric] - 0.5) / DEVIATION]
        if self.levelled:
            index = level_index(flat[:, self.levelled], flat.new_tensor(self.levels)).long()
            parts += [each(index[:, place]) for place, each in enumerate(self.embeddings)]
        return torch.cat(parts, 1)


class TableNetwork(Network):
    """A perceptron on rows with these columns; features are its last hidden layer.

    Args:
        outputs: K.
        columns: (D,).
        hidden: width of each hidden layer.
        activation: after each of them.
    """

    def __init__(
        self,
        outputs: int,
        columns: Sequence[Column],
        hidden: Sequence[int],
        activation: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        embedding = ColumnEmbedding(columns)
        layers: list[nn.Module] = [embedding]
        for before, width in zip((embedding.width, *hidden), hidden, strict=False):
            layers += [nn.Linear(before, width), activation()]
        super().__init__(nn.Identity(), nn.Linear(hidden[-1], outputs))
        self.body = nn.Sequential(*layers)


TABLE_MODELS: dict[str, Callable[[int, Sequence[Column]], nn.Module]] = {
    "table-mlp": lambda outputs, columns: TableNetwork(outputs, columns, (128, 64)),
    "table-mlp-small": lambda outputs, columns: TableNetwork(outputs, columns, (32,)),
    "table-tanh": lambda outputs, columns: TableNetwork(outputs, columns, (16,), nn.Tanh),
}
"""Factories of networks for tables, from K and the columns."""


def build_table_network(
    name: str, outputs: int, columns: Sequence[Column], seed: int, *, imports: bool = False
) -> nn.Module:
    """A network for rows, with fresh weights that depend on ``seed`` alone.

    Args:
        name: of ours, or of any other network, which reads a row as an image of (1, 1, D).
        outputs: K, >= 1.
        columns: (D,).
        seed: of the initial weights.
        imports: see `fedkd.models.build_network`.

    Raises:
        SettingsError: no such network, or one that cannot read such images.
    """
    if name not in TABLE_MODELS:
        if name in MODELS and name != "mlp":
            raise SettingsError(
                f"the network {name!r} reads images, and these are rows of a table; choose one of "
                f"{', '.join((*TABLE_MODELS, 'mlp'))}, or a factory of yours"
            )
        return build_network(name, outputs, (1, 1, len(columns)), seed, imports=imports)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TABLE_MODELS[name](outputs, columns)


def check_student_name(name: str) -> None:
    """Check that there is a network of that name, for images or tables.

    Raises:
        SettingsError: no such network.
    """
    if name not in TABLE_MODELS:
        network_factory(name, {**MODELS, **TABLE_MODELS}, imports=True)
