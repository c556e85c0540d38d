"""Supervised training of a teacher on one institution's data: a network or a scikit-learn model."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkd.client.vault.training.settings import ProgressCallback, SupervisedSettings
from fedkd.errors import DataError, SettingsError
from fedkd.models import ModuleTeacher, ScikitTeacher, build_network
from fedkd.protocol import as_float

SKLEARN_PREFIX = "sklearn:"
"""Prefix of the names of scikit-learn's classifiers."""
LossOf: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Outputs and labels -> mean loss."""


def train_teacher(
    model_name: str,
    images: Tensor,
    labels: Tensor,
    classes: int,
    settings: SupervisedSettings,
    seed: int,
    progress: ProgressCallback | None = None,
    loss_of: LossOf = F.cross_entropy,
) -> ModuleTeacher | ScikitTeacher:
    """A teacher trained on these images; the same arguments give the same teacher.

    Args:
        model_name: a key of `fedkd.models.MODELS`, or ``sklearn:`` and a key of `CLASSIFIERS`,
            for which ``settings`` mean nothing.
        images: (N, C, H, W) uint8.
        labels: (N,) int64 in 0..K-1; not every class need occur. Of several tasks (N, M).
        classes: K, outputs.
        settings: how a network is trained.
        seed: of initial weights and of the order of images.
        progress: called after each epoch of a network.
        loss_of: a network's, see `summed_cross_entropy`.

    Raises:
        SettingsError: no such model, or the images are too small for it.
        DataError: too little to learn from.
    """
    check_samples(model_name, labels)
    if model_name.startswith(SKLEARN_PREFIX):
        name = model_name.removeprefix(SKLEARN_PREFIX)
        return ScikitTeacher(_fit_classifier(name, images, labels, seed), classes)
    channels, height, width = images.shape[1:]
    network = build_network(model_name, classes, (channels, height, width), seed, imports=True)
    fit_network(network, images, labels, settings, seed, progress, loss_of)
    return ModuleTeacher(network, classes)


def summed_cross_entropy(groups: Sequence[slice]) -> LossOf:
    """Cross-entropy of each task, summed; of one task that of its classes.

    Args:
        groups: outputs of each of M tasks.
    """
    if len(groups) == 1:
        return F.cross_entropy

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        each = [
            F.cross_entropy(outputs[:, at], own) for at, own in zip(groups, labels.T, strict=True)
        ]
        return torch.stack(each).sum()

    return loss


def fit_network(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    settings: SupervisedSettings,
    seed: int,
    progress: ProgressCallback | None,
    loss_of: LossOf = F.cross_entropy,
) -> None:
    """Train a network in place: AdamW, with a cosine over all steps.

    Args:
        network: (B, C, H, W) in [0, 1] -> (B, K).
        images: (N, C, H, W), uint8 or float in [0, 1].
        labels: (N,) classes, or whatever ``loss_of`` takes.
        settings: how.
        seed: of the order.
        progress: called after each epoch.
        loss_of: outputs and labels -> mean loss.
    """
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
                augmented = settings.augmentation.augment(images[picked], order)
                x = as_float(augmented).contiguous(memory_format=layout)
                loss = loss_of(network(x), labels[picked])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
            cosine.step()
        if progress is not None:
            progress(epoch + 1, settings.epochs)


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


def check_samples(model_name: str, labels: Tensor) -> None:
    """Check that there is enough to train a model on.

    Args:
        model_name: as `train_teacher` takes it.
        labels: (N,) int64.

    Raises:
        DataError: too little to learn from.
    """
    if not model_name.startswith(SKLEARN_PREFIX):
        if len(labels) < 2:
            raise DataError("a network needs 2 or more training images here; bring more data")
        return
    name, known = model_name.removeprefix(SKLEARN_PREFIX), labels.numpy()
    if name != "RandomForestClassifier" and len(np.unique(known[_taken(name, known)])) < 2:
        raise DataError(
            f"{model_name} needs 2 or more classes to learn from and these data have fewer; choose "
            f"{SKLEARN_PREFIX}RandomForestClassifier or a network"
        )


def _taken(name: str, known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which images a classifier is fitted on, (N,)."""
    if name != "SVC":
        return np.ones(len(known), bool)
    # Calibration holds out a part of every class, so a class needs more than one image.
    counts: NDArray[np.bool_] = np.bincount(known)[known] > 1
    return counts


def check_classifier_name(name: str) -> None:
    """Check that `CLASSIFIERS` has a classifier of that name.

    Raises:
        SettingsError: it has none.
    """
    if name not in CLASSIFIERS:
        raise SettingsError(
            f"unknown model {SKLEARN_PREFIX + name!r}; choose one of "
            f"{', '.join(SKLEARN_PREFIX + known for known in CLASSIFIERS)}"
        )


def _fit_classifier(name: str, images: Tensor, labels: Tensor, seed: int) -> Any:
    check_classifier_name(name)
    pixels, known = as_float(images).flatten(1).numpy(), labels.numpy()
    taken = _taken(name, known)
    pixels, known = pixels[taken], known[taken]
    return CLASSIFIERS[name](seed, known).fit(pixels, known)
