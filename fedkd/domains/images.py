"""The domain of images (C, H, W)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.experiment import Experiment
from fedkd.models import Generator, build_network
from fedkd.models.deployable_estimator import check_estimator_kind
from fedkd.procedural import Prior, build_prior


@dataclass(frozen=True)
class Images:
    """Images of one shape; see `fedkd.core.domain.Domain`."""

    shape: tuple[int, int, int]
    kind = "images"

    def priors(self, experiment: Experiment) -> dict[str, Prior]:
        """The experiment's procedural images, by name."""
        images = experiment.images
        return {n: build_prior(n, images.warp, images.mix, imports=True) for n in images.priors}

    def student(self, experiment: Experiment, outputs: int) -> nn.Module:
        """The experiment's network."""
        if (kind := experiment.student.estimator) != "none":
            check_estimator_kind(kind, table=False)
        name = experiment.student.model
        return build_network(name, outputs, self.shape, experiment.seed, imports=True)

    def generator(self, latent: int) -> nn.Module:
        """The convolutional network."""
        return Generator(latent, self.shape)

    def mutated(self, samples: Tensor, rng: torch.Generator) -> Tensor:
        """Shifted by at most one pixel, all alike."""
        dy, dx = (int(torch.randint(-1, 2, (), generator=rng)) for _ in "yx")
        return samples.roll((dy, dx), (2, 3))

    def record(self) -> Mapping[str, Any]:
        """The kind and the shape."""
        return {"kind": self.kind, "shape": list(self.shape)}
