"""Check a network's outputs on probe samples: their shape, and that they are no probabilities.

Where probabilities are taken for logits the softmax is applied twice, and a student learns an
almost uniform distribution.
"""

import torch
from torch import Tensor, nn

from fedkd.errors import SettingsError
from fedkd.models.teacher import MIN_PROBABILITY

MAX_SUM_DIFFERENCE = 1e-2
"""Of a row of probabilities from 1; a server may round to 8 bits of mantissa."""
NOISE_SAMPLES = 6
"""Of each contrast among the probes."""
CONTRASTS = (1.0, 0.3)
"""Standard deviations of the noise, relative to that of uniform noise in [0, 1]."""


class LogProbabilities(nn.Module):
    """A network that ends in a softmax, with the logarithm behind it.

    Args:
        network: (B, C, H, W) -> probabilities (B, K).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logarithms of probabilities (B, K), finite."""
        probabilities: Tensor = self.network(x)
        return probabilities.clamp_min(MIN_PROBABILITY).log()


def probe_images(shape: tuple[int, int, int]) -> Tensor:
    """A black image, a white one, and fixed noise of two contrasts, (N, C, H, W) in [0, 1]."""
    draw = torch.rand(
        NOISE_SAMPLES * len(CONTRASTS), *shape, generator=torch.Generator().manual_seed(0)
    )
    contrast = torch.tensor(CONTRASTS).repeat_interleave(NOISE_SAMPLES).view(-1, 1, 1, 1)
    noise = 0.5 + contrast * (draw - 0.5)
    return torch.cat([torch.zeros(1, *shape), torch.ones(1, *shape), noise])


def sum_to_one(outputs: Tensor) -> bool:
    """Whether all rows of (B, K), K >= 2, are in [0, 1] and sum to 1: they are probabilities.

    Of one class alone nothing can be said: False.
    """
    if outputs.shape[1] < 2:
        return False
    inside = bool(((outputs >= 0) & (outputs <= 1)).all())
    return inside and bool((outputs.double().sum(1) - 1).abs().max() <= MAX_SUM_DIFFERENCE)


def check_network(
    what: str, network: nn.Module, outputs: int, shape: tuple[int, int, int], *, logits: bool = True
) -> None:
    """Check that a network with fresh weights reads such samples and answers logits.

    Args:
        what: it is, for the message.
        network: on the CPU; in the same mode afterwards.
        outputs: K.
        shape: (C, H, W) of its samples.
        logits: whether it answers logits of classes; False: it predicts numbers.

    Raises:
        SettingsError: it cannot read them, or does not answer (B, K) logits or numbers.
    """
    probes = probe_images(shape)
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            said = network(probes)
    except Exception as error:  # the user's own network may raise anything
        first = next(iter(str(error).splitlines()), "")
        raise SettingsError(
            f"{what} cannot read samples of {list(shape)}: {type(error).__name__}: {first}; choose "
            "a network that can"
        ) from error
    finally:
        network.train(training)
    came = list(said.shape) if isinstance(said, Tensor) else type(said).__name__
    if came != [len(probes), outputs]:
        raise SettingsError(
            f"{what} answers {came} to {len(probes)} samples of {list(shape)}, expected "
            f"{[len(probes), outputs]}: a row of {outputs} for each"
        )
    if logits and sum_to_one(said):
        raise SettingsError(
            f"{what} ends in a softmax, and is trained on logits; take the softmax away"
        )
