"""DP-SGD training of a teacher on one institution's data, with the clipping of Opacus.

Each step takes every image with the same probability, clips its gradient, and adds noise to the
sum. Sampling and noise come from the operating system and have no seed, so two trainings with the
same arguments give different teachers. Only the gradients depend on the data: the probability and
the number of steps do not, and neither does the size of a step, since the optimiser is invariant
to the scale of a gradient.

What the guarantee leaves out is said in `fedkd.protocol.guarantee` and
`fedkd.privacy.noise.with_gaussian_noise`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from opacus.accountants import create_accountant
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from fedkd.client.vault.training.settings import DpSgdSettings, ProgressCallback
from fedkd.client.vault.training.supervised import SKLEARN_PREFIX
from fedkd.client.vault.training.supervised_tables import build_teacher_network
from fedkd.errors import DataError, SettingsError
from fedkd.models import ModuleTeacher, Network
from fedkd.privacy import (
    Event,
    calibrated_noise_multiplier,
    epsilon_of_events,
    uniform,
    with_gaussian_noise,
)
from fedkd.protocol import Column, Guarantee, Number, as_float

CHUNK = 512
"""Images whose gradients are in memory at once; a step may be of more."""


def train_with_dp_sgd(
    model_name: str,
    images: Tensor,
    labels: Tensor,
    classes: int,
    settings: DpSgdSettings,
    seed: int,
    progress: ProgressCallback | None = None,
    columns: Sequence[Column] = (),
    numbers: Sequence[Number] = (),
) -> tuple[ModuleTeacher, Guarantee]:
    """A teacher and the guarantee of its training; never the same teacher twice.

    Args:
        model_name: a key of `fedkd.models.MODELS` without batch norm; of rows a network for tables.
        images: (N, C, H, W) uint8, or rows (N, 1, 1, D) float32 in [0, 1].
        labels: (N,) int64 in 0..K-1, or numbers (N, K) float32 in [0, 1].
        classes: K; to be known without looking at the images.
        settings: the target guarantee, and how the teacher is trained.
        seed: of the initial weights, and of nothing else.
        progress: called after each epoch.
        columns: (D,) of rows, to be known without looking at them; none: they are images.
        numbers: (K,) that are predicted; none: classes are.

    Raises:
        SettingsError: a model that cannot be trained so, or a target that no noise reaches.
        DataError: the training diverged.
    """
    channels, height, width = images.shape[1:]
    network = build_trainable(model_name, classes, (channels, height, width), columns, seed)
    inputs: Tensor = as_float(images)
    learner: nn.Module = network
    if isinstance(network, Network) and next(network.body.parameters(), None) is None:
        # The body has no parameters, so its features are computed once.
        with torch.no_grad():
            inputs = torch.cat([network.embed(piece) for piece in torch.split(inputs, CHUNK)])
        learner = network.head
    training = DpSgdTraining(learner, settings, SquaredError() if numbers else None)
    steps_an_epoch = 1 / settings.sampling_rate
    for step in range(1, settings.steps + 1):
        picked = torch.from_numpy(uniform(len(inputs)) < settings.sampling_rate)
        training.step(inputs[picked], labels[picked])
        if progress is not None and int(step / steps_an_epoch) > int((step - 1) / steps_an_epoch):
            progress(int(step / steps_an_epoch), settings.epochs)
    if not all(p.isfinite().all() for p in network.parameters()):
        raise DataError("the private training diverged; lower privacy.learning_rate")
    promised = training.guarantee
    if columns:
        promised = replace(promised, unit="one training row")
    return ModuleTeacher(network, classes), promised


def build_trainable(
    name: str, classes: int, shape: tuple[int, int, int], columns: Sequence[Column], seed: int
) -> nn.Module:
    """A network with fresh weights that DP-SGD can train.

    Raises:
        SettingsError: no such network, or its gradients are not each of one sample.
    """
    if name.startswith(SKLEARN_PREFIX):
        instead = "table-mlp" if columns else "scattering"
        raise SettingsError(f"{name} cannot be trained privately; choose {instead} or a network")
    network = build_teacher_network(name, classes, shape, columns, seed)
    if ModuleValidator.validate(network.train(), strict=False):
        raise SettingsError(
            f"{name} has batch norm, which mixes the images of a step so that no image's part can "
            f"be bounded; choose scattering, cnn-groupnorm, lenet5 or mlp for a private training"
        )
    return network


class SquaredError(nn.Module):
    """Squared error of numbers (B, K), their mean for each sample; of a step the sum."""

    reduction = "sum"
    """Opacus sets it to "none" where it wants the error of each sample."""

    def forward(self, outputs: Tensor, numbers: Tensor) -> Tensor:
        """(), or (B,)."""
        error = F.mse_loss(outputs, numbers, reduction="none").mean(1)
        return error if self.reduction == "none" else error.sum()


class DpSgdTraining:
    """Module, optimiser and accountant of Opacus; noise has no seed, every step is accounted.

    Args:
        learner: its parameters with a gradient are trained, in place.
        settings: the target guarantee, which the noise is for, and the hyperparameters.
        loss: outputs and labels -> summed loss, with Opacus' ``reduction``; None: cross entropy.
        steps: of the cosine; None: all of ``settings``.
    """

    def __init__(
        self,
        learner: nn.Module,
        settings: DpSgdSettings,
        loss: nn.Module | None = None,
        steps: int | None = None,
    ) -> None:
        s = settings
        self._settings = s
        self._noise = calibrated_noise_multiplier(
            s.epsilon, s.delta, s.sampling_rate, s.steps, s.accountant
        )
        module = GradSampleModuleFastGradientClipping(
            learner, loss_reduction="sum", max_grad_norm=s.clipping
        )
        trained = [p for p in learner.parameters() if p.requires_grad]
        adam = torch.optim.Adam(trained, s.learning_rate)
        self._optimiser = _NoisyOptimiser(
            adam,
            noise_multiplier=self._noise,
            max_grad_norm=s.clipping,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        self._cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps or s.steps)
        self._accountant = create_accountant(s.accountant)
        self._optimiser.attach_step_hook(
            self._accountant.get_optimizer_hook_fn(sample_rate=s.sampling_rate)
        )
        self._module = module
        self._loss = DPLossFastGradientClipping(
            module,
            self._optimiser,
            loss or nn.CrossEntropyLoss(reduction="sum"),
            loss_reduction="sum",
        )

    def step(self, inputs: Tensor, labels: Tensor) -> None:
        """One step on a Poisson batch, which may be empty: then it is noise alone."""
        pieces = list(zip(torch.split(inputs, CHUNK), torch.split(labels, CHUNK), strict=True))
        for number, (x, y) in enumerate(pieces, 1):
            with warnings.catch_warnings():
                # Torch warns that the images need no gradient.
                warnings.filterwarnings("ignore", "Full backward hook", UserWarning)
                self._loss(self._module(x), y).backward()
            self._optimiser.signal_skip_step(number < len(pieces))
            self._optimiser.step()
        self._cosine.step()

    def remove_hooks(self) -> None:
        """Leave the learner as a plain module, so that another training can take its layers."""
        self._module.remove_hooks()

    @property
    def noise_multiplier(self) -> float:
        """Standard deviation of the noise on a sum of gradients, over the clipping."""
        return self._noise

    @property
    def events(self) -> list[Event]:
        """The steps that were taken, as the accountant recorded each."""
        return [Event(noise, rate, steps) for noise, rate, steps in self._accountant.history]

    @property
    def guarantee(self) -> Guarantee:
        """The guarantee of the steps that were taken."""
        return guarantee_of(self._settings, self.events, self._noise)


def guarantee_of(
    settings: DpSgdSettings, events: Sequence[Event], noise_multiplier: float
) -> Guarantee:
    """The guarantee of steps of DP-SGD that were taken by some settings."""
    s = settings
    return Guarantee(
        epsilon=epsilon_of_events(list(events), s.delta, s.accountant),
        delta=s.delta,
        steps=sum(event.steps for event in events),
        noise_multiplier=noise_multiplier,
        sampling_rate=s.sampling_rate,
        clipping=s.clipping,
        accountant=s.accountant,
    )


class _NoisyOptimiser(DPOptimizerFastGradientClipping):  # type: ignore[misc]
    """Opacus' optimiser with noise from the operating system.

    Opacus draws from torch's generator, which a user may have seeded; its secure mode needs a
    package that has not been released since 2021.
    """

    def add_noise(self) -> None:
        """Noise on the sum of clipped gradients."""
        parameters: list[Any] = self.params
        for p in parameters:
            p.grad = with_gaussian_noise(p.summed_grad, self.noise_multiplier * self.max_grad_norm)
            p.summed_grad = None  # so that no second step can use it
