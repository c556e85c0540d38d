"""A private training clips each image, adds the noise that it is accounted for, and learns."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from fedkd.client.vault.training.dp_sgd import CHUNK, DpSgdTraining, train_with_dp_sgd
from fedkd.client.vault.training.settings import DpSgdSettings
from fedkd.data.datasets import open_data
from fedkd.errors import DataError, SettingsError
from fedkd.evaluation import accuracy, predict_logits
from fedkd.models import build_network
from fedkd.privacy import Event, epsilon_of_events
from fedkd.protocol import as_float

DIGITS = open_data("digits")
SETTINGS = DpSgdSettings(epsilon=3.0, epochs=5, sampling_rate=0.1, accountant="rdp")


def gradient(learner: nn.Module) -> Tensor:
    """What the optimiser was given in its last step, (P,)."""
    return torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])


def clipped_sum(learner: nn.Module, x: Tensor, y: Tensor, bound: float) -> Tensor:
    """The same without noise, image by image, (P,); to be taken before Opacus hooks in."""
    total = torch.zeros(sum(p.numel() for p in learner.parameters()))
    for image, label in zip(x, y, strict=True):
        loss = F.cross_entropy(learner(image[None]), label[None])
        parts = torch.autograd.grad(loss, list(learner.parameters()))
        own = torch.cat([part.flatten() for part in parts])
        total += own * min(1.0, bound / float(own.norm()))
    return total


def plausible(noise: Tensor, deviation: float) -> bool:
    return bool(stats.kstest(noise.double().numpy(), "norm", (0, deviation)).pvalue > 1e-6)


@pytest.mark.parametrize("wrong", [1.0, 2 / 3, 3 / 2])
def test_a_real_step_adds_the_noise_that_is_promised(wrong: float) -> None:
    settings = replace(SETTINGS, clipping=0.5)
    learner = nn.Linear(2000, 10)
    x, y = torch.rand(40, 2000), torch.arange(40) % 10
    exact = clipped_sum(learner, x, y, settings.clipping)
    training = DpSgdTraining(learner, settings)
    promised = training._optimiser.noise_multiplier * settings.clipping
    training._optimiser.noise_multiplier *= wrong  # the control
    training.step(x, y)
    first = gradient(learner) - exact
    assert plausible(first, promised) == (wrong == 1.0)
    training.step(x[:0], y[:0])
    second = gradient(learner)
    assert plausible(second, promised) == (wrong == 1.0), "an empty sample is noise alone"
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.04


@pytest.mark.parametrize("name", ["scattering", "cnn-groupnorm", "lenet5"])
@pytest.mark.parametrize("clipping", [0.05, 100.0])
def test_no_image_adds_more_than_the_bound(name: str, clipping: float) -> None:
    side = 16 if name == "lenet5" else 8
    learner: nn.Module = build_network(name, 10, (1, side, side), 0)
    x = F.interpolate(as_float(DIGITS.train_images[:30]), (side, side))
    if name == "scattering":
        x, learner = learner.embed(x), learner.head  # type: ignore[operator,assignment]
    y = DIGITS.train_labels[:30]
    exact = clipped_sum(learner, x, y, clipping)
    training = DpSgdTraining(learner, replace(SETTINGS, clipping=clipping))
    training._optimiser.noise_multiplier = 1e-9
    training.step(x, y)
    torch.testing.assert_close(gradient(learner), exact, atol=1e-4, rtol=1e-3)
    training.step(1000 * x[:1], y[:1])
    assert gradient(learner).norm() <= clipping * 1.001


def test_a_step_in_pieces_is_one_step() -> None:
    learner = nn.Linear(4, 3)
    x, y = torch.rand(2 * CHUNK + 7, 4), torch.arange(2 * CHUNK + 7) % 3
    exact = clipped_sum(learner, x, y, SETTINGS.clipping)
    training = DpSgdTraining(learner, SETTINGS)
    training._optimiser.noise_multiplier = 1e-9
    training.step(x, y)
    torch.testing.assert_close(gradient(learner), exact, atol=1e-3, rtol=1e-3)
    assert training._accountant.history == [(1e-9, SETTINGS.sampling_rate, 1)]


def test_the_promise_is_the_accountants_after_the_training() -> None:
    heard: list[tuple[int, int]] = []
    train = (DIGITS.train_images, DIGITS.train_labels, 10)
    teacher, promised = train_with_dp_sgd(
        "scattering", *train, SETTINGS, 0, lambda *done: heard.append(done)
    )
    assert heard == [(epoch, 5) for epoch in range(1, 6)]
    assert (promised.steps, promised.delta, promised.sampling_rate) == (50, 1e-5, 0.1)
    again = [Event(promised.noise_multiplier, promised.sampling_rate, promised.steps)]
    assert promised.epsilon == epsilon_of_events(again, promised.delta, "rdp")
    assert 2.9 < promised.epsilon <= 3
    assert accuracy(predict_logits(teacher.module, DIGITS.test_images), DIGITS.test_labels) > 0.7


def test_a_step_too_many_shows_in_the_promise() -> None:
    training = DpSgdTraining(nn.Linear(4, 3), SETTINGS)
    for _ in range(SETTINGS.steps + 25):
        training.step(torch.rand(2, 4), torch.tensor([0, 1]))
    assert training.guarantee.epsilon > SETTINGS.epsilon


def test_two_trainings_differ_and_samples_are_of_the_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    step = DpSgdTraining.step

    def noted(self: DpSgdTraining, x: Tensor, y: Tensor) -> None:
        sizes.append(len(x))
        step(self, x, y)

    monkeypatch.setattr(DpSgdTraining, "step", noted)
    said = []
    for _ in range(2):
        torch.manual_seed(0)
        train = (DIGITS.train_images, DIGITS.train_labels, 10)
        teacher, _ = train_with_dp_sgd("scattering", *train, SETTINGS, 0)
        said.append(predict_logits(teacher.module, DIGITS.test_images))
    assert not torch.equal(*said)
    trials = len(sizes) * len(DIGITS.train_labels)
    assert stats.binomtest(sum(sizes), trials, 0.1).pvalue > 1e-6
    expected = len(DIGITS.train_labels) * 0.1 * 0.9
    spread = sum((size - len(DIGITS.train_labels) * 0.1) ** 2 for size in sizes) / expected
    assert 1e-6 < stats.chi2.sf(spread, len(sizes)) < 1 - 1e-6, "sizes vary as Poisson samples do"


@pytest.mark.parametrize("name", ["cnn", "resnet18", "wrn16-1", "sklearn:SVC"])
def test_what_cannot_be_trained_privately_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="choose scattering"):
        train_with_dp_sgd(name, DIGITS.train_images, DIGITS.train_labels, 10, SETTINGS, 0)


def test_a_training_that_diverges_leaves_no_teacher() -> None:
    wild = replace(SETTINGS, epochs=1, learning_rate=1e30)
    with pytest.raises(DataError, match="diverged"):
        train_with_dp_sgd("mlp", DIGITS.train_images, DIGITS.train_labels, 10, wild, 0)


@pytest.mark.parametrize(
    "words",
    [
        {"epsilon": 0.0},
        {"epsilon": float("nan")},
        {"delta": 0.0},
        {"delta": 1.0},
        {"clipping": 0.0},
        {"epochs": 0},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"learning_rate": float("inf")},
    ],
)
def test_impossible_settings_are_refused(words: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        DpSgdSettings(**({"epsilon": 1.0} | words))  # type: ignore[arg-type]
