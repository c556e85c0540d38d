"""Trains a teacher on one institution's images. Knows neither where they lie nor who will ask."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedkd.core.augmentation import ITSELF, Views
from fedkd.errors import DataError, SettingsError
from fedkd.models.networks import Network, build
from fedkd.models.teacher import ModuleTeacher, ScikitTeacher
from fedkd.protocol.signals import as_float

SCIKIT = "sklearn:"
"""What names of scikit-learn's classifiers begin with."""


@dataclass(frozen=True)
class TeachSettings:
    """How a network is trained: AdamW, the rate falling to 0 along a cosine.

    Raises:
        SettingsError: a number out of range.
    """

    epochs: int = 40
    """Passes over the institution's images, >= 1."""
    batch: int = 32
    """Images of a step, >= 2, since batch norm needs company."""
    learning_rate: float = 5e-3
    """> 0."""
    weight_decay: float = 5e-4
    """>= 0."""
    views: Views = ITSELF
    """Of every image, a new one in each epoch."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise SettingsError(
                f"{self.epochs} epochs in batches of {self.batch}; expected 1 or more epochs and "
                f"2 or more images"
            )
        rate, decay = self.learning_rate, self.weight_decay
        if not 0 < rate < math.inf or not 0 <= decay < math.inf:
            raise SettingsError(
                f"learning rate {rate}, weight decay {decay}; expected > 0 and >= 0"
            )


@dataclass(frozen=True)
class PrivateSettings:
    """What a training with differential privacy promises, and how it goes about it.

    All of it has to be chosen without looking at the institution's images. What is left to find
    by bisection is the noise.

    Raises:
        SettingsError: a number out of range.
    """

    epsilon: float
    """> 0; the training ends at or a little below it."""
    delta: float = 1e-5
    """In (0, 1), well below one over the number of images."""
    clipping: float = 1.0
    """Largest L2 norm of what one image adds to a gradient, > 0."""
    epochs: int = 30
    """Times that each image is taken on average, >= 1."""
    sampling_rate: float = 0.05
    """Chance of each image to be taken in a step, in (0, 1].

    It stands in the place of a batch size, because a batch over the number of images would tell
    that number.
    """
    learning_rate: float = 5e-3
    """Of Adam, > 0; it falls to 0 along a cosine."""
    accountant: str = "prv"
    """prv or rdp, see `fedkd.privacy.accounting`."""

    def __post_init__(self) -> None:
        positive = (self.epsilon, self.clipping, self.learning_rate)
        if not all(0 < number < math.inf for number in positive) or self.epochs < 1:
            raise SettingsError(
                f"epsilon {self.epsilon}, clipping {self.clipping}, learning rate "
                f"{self.learning_rate}, {self.epochs} epochs; each must be above 0"
            )
        if not (0 < self.delta < 1 and 0 < self.sampling_rate <= 1):
            raise SettingsError(
                f"delta {self.delta}, sampling rate {self.sampling_rate}; expected (0, 1) and "
                f"(0, 1]"
            )

    @property
    def steps(self) -> int:
        """Of the training."""
        return round(self.epochs / self.sampling_rate)


Watch = Callable[[int, int], None]
"""Is told how many epochs are done, and of how many."""


def train_teacher(
    model_name: str,
    images: Tensor,
    labels: Tensor,
    classes: int,
    settings: TeachSettings,
    seed: int,
    watch: Watch | None = None,
) -> ModuleTeacher | ScikitTeacher:
    """A teacher trained on these images; the same arguments give the same teacher.

    Args:
        model_name: a key of `fedkd.models.networks.MODELS`, or ``sklearn:`` and a key of `CLASSIFIERS`,
            for which ``settings`` mean nothing.
        images: (N, C, H, W) uint8.
        labels: (N,) int64 in 0..K-1; not every class need occur.
        classes: K.
        settings: how a network is trained.
        seed: of initial weights and of the order of images.
        watch: called after each epoch of a network.

    Raises:
        SettingsError: no such model, or the images are too small for it.
        DataError: too little to learn from.
    """
    if model_name.startswith(SCIKIT):
        name = model_name.removeprefix(SCIKIT)
        return ScikitTeacher(_fit_classifier(name, images, labels, seed), classes)
    channels, height, width = images.shape[1:]
    network = build(model_name, classes, (channels, height, width), seed)
    if len(images) < 2:
        raise DataError("a network needs 2 or more training images here; bring more data")
    _fit_network(network, images, labels, settings, seed, watch)
    return ModuleTeacher(network, classes)


def _fit_network(
    network: Network,
    images: Tensor,
    labels: Tensor,
    settings: TeachSettings,
    seed: int,
    watch: Watch | None,
) -> None:
    # Convolutions over few channels are up to half faster in this order.
    layout = torch.channels_last
    network.train().to(memory_format=layout)  # type: ignore[call-overload]
    order = torch.Generator().manual_seed(seed)
    steps = settings.epochs * math.ceil(len(images) / settings.batch)
    optimiser = torch.optim.AdamW(
        network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for epoch in range(settings.epochs):
        for picked in torch.split(torch.randperm(len(images), generator=order), settings.batch):
            if len(picked) > 1:  # one image alone has no variance for batch norm
                seen = settings.views.of(images[picked], order)
                x = as_float(seen).contiguous(memory_format=layout)
                loss = F.cross_entropy(network(x), labels[picked])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            cosine.step()
        if watch is not None:
            watch(epoch + 1, settings.epochs)


def _logistic_regression(seed: int, _: NDArray[np.int64]) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=1000, random_state=seed)


def _random_forest(seed: int, _: NDArray[np.int64]) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=100, random_state=seed)


def _svc(_: int, labels: NDArray[np.int64]) -> Any:
    """A support vector machine with calibrated probabilities (Platt's sigmoid, one v. rest)."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    folds = min(5, int(np.unique(labels, return_counts=True)[1].min()))
    return CalibratedClassifierCV(SVC(), ensemble=False, cv=folds)


CLASSIFIERS: dict[str, Callable[[int, NDArray[np.int64]], Any]] = {
    "LogisticRegression": _logistic_regression,
    "RandomForestClassifier": _random_forest,
    "SVC": _svc,
}
"""Unfitted classifiers from a seed and the labels that they will see."""


def _fit_classifier(name: str, images: Tensor, labels: Tensor, seed: int) -> Any:
    if name not in CLASSIFIERS:
        raise SettingsError(
            f"unknown model {SCIKIT + name!r}; choose one of "
            f"{', '.join(SCIKIT + known for known in CLASSIFIERS)}"
        )
    pixels, known = as_float(images).flatten(1).numpy(), labels.numpy()
    if name == "SVC":
        # Calibration holds a part of every class out, which a lone image of its class cannot give.
        common = np.bincount(known)[known] > 1
        pixels, known = pixels[common], known[common]
    if name != "RandomForestClassifier" and len(np.unique(known)) < 2:
        raise DataError(
            f"{SCIKIT}{name} needs 2 or more classes to learn from and this shard has fewer; "
            f"choose {SCIKIT}RandomForestClassifier or a network"
        )
    return CLASSIFIERS[name](seed, known).fit(pixels, known)
