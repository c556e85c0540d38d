"""Teachers learn their own shard, the same way each time, whatever it lacks."""

import pytest
import torch
from torch import Tensor

from fedkd.client.vault.training.settings import SupervisedSettings
from fedkd.client.vault.training.supervised import CLASSIFIERS, train_teacher
from fedkd.core.augmentation import Augmentation
from fedkd.data.datasets import open_data
from fedkd.data.partition import partition
from fedkd.errors import DataError, SettingsError
from fedkd.models import ModuleTeacher, ScikitTeacher, Teacher
from fedkd.protocol import Signal

DIGITS = open_data("digits")
SHORT = SupervisedSettings(epochs=3)
CLASSIFIER_NAMES = [f"sklearn:{name}" for name in CLASSIFIERS]


def says(teacher: Teacher, images: Tensor = DIGITS.test_images) -> Tensor:
    return teacher.ask(images, frozenset({Signal.LOGITS}))[Signal.LOGITS]


def right(logits: Tensor) -> float:
    return float((logits.argmax(1) == DIGITS.test_labels).float().mean())


def teach(
    name: str, kept: Tensor, settings: SupervisedSettings = SHORT, seed: int = 0
) -> ModuleTeacher | ScikitTeacher:
    images, labels = DIGITS.train_images[kept], DIGITS.train_labels[kept]
    return train_teacher(name, images, labels, 10, settings, seed)


def of_classes(*classes: int) -> Tensor:
    return torch.isin(DIGITS.train_labels, torch.tensor(classes)).nonzero().flatten()


def test_five_skewed_institutions_know_together_what_each_does_not() -> None:
    together, alone = torch.zeros(360, 10), []
    for index, part in enumerate(partition(DIGITS.train_labels, 5, "dirichlet", alpha=0.5)):
        teacher = teach("cnn", part, SupervisedSettings(), index)
        logits = says(teacher)
        alone.append(right(logits))
        counts = torch.bincount(DIGITS.train_labels[part], minlength=10)
        together += counts * logits.softmax(1)
    assert sum(alone) / 5 > 0.75
    assert sum(alone) / 5 < 0.9, "skew must show, or the ensemble has nothing to add"
    assert right(together) > 0.98


def test_the_seed_alone_decides() -> None:
    some = torch.arange(200)
    one, again, other = (says(teach("cnn", some, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)


def test_views_are_another_training_and_the_same_one_each_time() -> None:
    some, moving = torch.arange(200), SupervisedSettings(epochs=3, augmentation=Augmentation(1))
    still = says(teach("cnn", some))
    one, again = (says(teach("cnn", some, moving)) for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, still)


def test_training_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    teach("cnn", torch.arange(100))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_classifiers_learn_data_that_lack_classes(name: str) -> None:
    kept = of_classes(2, 5, 9)
    logits = says(teach(name, kept))
    assert logits.shape == (360, 10)
    assert set(logits.argmax(1).tolist()) == {2, 5, 9}
    known = torch.isin(DIGITS.test_labels, torch.tensor([2, 5, 9]))
    assert float((logits.argmax(1) == DIGITS.test_labels)[known].float().mean()) > 0.9


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_a_class_with_one_image_does_not_stop_a_classifier(name: str) -> None:
    lone = torch.cat([of_classes(1, 4), of_classes(7)[:1]])
    assert says(teach(name, lone)).shape == (360, 10)


@pytest.mark.parametrize("name", CLASSIFIER_NAMES)
def test_data_of_one_class_are_learned_or_refused_plainly(name: str) -> None:
    if name == "sklearn:RandomForestClassifier":
        assert set(says(teach(name, of_classes(3))).argmax(1).tolist()) == {3}
    else:
        with pytest.raises(DataError, match="2 or more classes"):
            teach(name, of_classes(3))


def test_a_network_learns_when_the_last_batch_is_one_image() -> None:
    # resnet18 makes 8x8 images 1x1, where batch norm cannot take one image alone.
    settings = SupervisedSettings(epochs=1, batch=8)
    assert says(teach("resnet18", torch.arange(9), settings)).isfinite().all()
    with pytest.raises(DataError, match="2 or more training images"):
        teach("cnn", torch.arange(1))


def test_whoever_watches_hears_of_every_epoch() -> None:
    heard: list[tuple[int, int]] = []
    train_teacher(
        "mlp",
        DIGITS.train_images[:50],
        DIGITS.train_labels[:50],
        10,
        SHORT,
        0,
        lambda done, total: heard.append((done, total)),
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]


def test_unknown_models_are_refused() -> None:
    with pytest.raises(SettingsError, match="sklearn:SVC"):
        teach("sklearn:Pipeline", torch.arange(50))
    with pytest.raises(SettingsError, match="did you mean cnn"):
        teach("cnm", torch.arange(50))


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 0},
        {"batch": 1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"weight_decay": -0.1},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        SupervisedSettings(**settings)  # type: ignore[arg-type]
