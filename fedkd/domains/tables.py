"""The domain of tables: rows of D columns."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.experiment import Experiment
from fedkd.models import RowGenerator, build_table_network
from fedkd.models.deployable_estimator import check_estimator_kind
from fedkd.procedural import Prior, build_prior
from fedkd.protocol import Column

REDRAWN = 0.1
"""Share of the columns of a row that a mutation draws anew."""


@dataclass(frozen=True)
class Table:
    """Rows with these columns; see `fedkd.core.domain.Domain`."""

    columns: tuple[Column, ...]
    kind = "table"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, 1, D)."""
        return 1, 1, len(self.columns)

    def priors(self, experiment: Experiment) -> dict[str, Prior]:
        """The experiment's distributions of rows, by name."""
        return {name: build_prior(name, imports=True) for name in experiment.rows.priors}

    def student(self, experiment: Experiment, outputs: int) -> nn.Module:
        """The experiment's network for tables."""
        if (kind := experiment.student.estimator) != "none":
            check_estimator_kind(kind, table=True)
        return build_table_network(
            experiment.student.model, outputs, self.columns, experiment.seed, imports=True
        )

    def generator(self, latent: int) -> nn.Module:
        """A perceptron."""
        return RowGenerator(latent, len(self.columns))

    def mutated(self, samples: Tensor, rng: torch.Generator) -> Tensor:
        """Some columns of each row are drawn anew, uniformly."""
        redrawn = torch.rand(samples.shape, generator=rng) < max(REDRAWN, 1 / len(self.columns))
        anew = torch.randint(0, 256, samples.shape, generator=rng).to(samples)
        return torch.where(redrawn.to(samples.device), anew, samples)

    def record(self) -> Mapping[str, Any]:
        """The kind and the columns."""
        columns = [{**asdict(column), "step": column.step} for column in self.columns]
        return {"kind": self.kind, "columns": columns}
