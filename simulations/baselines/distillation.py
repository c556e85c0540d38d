"""Central training, FedDF-style distillation on public images, and fedkd, on one partition.

FedDF (Lin et al., NeurIPS 2020) averages the institutions' weights, sees their networks, and
distils the mean of their logits into that average on unlabelled public images. Here all
institutions have the student's network, each is trained once, and there is one round.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.data.datasets import open_data
from fedkd.protocol import Answers, Ask, Refusal, Request, Signal, as_float
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.simulations.baselines.federation import Federation, Row, bytes_of, train_locally
from fedkd.simulations.engines.evaluation import student_accuracy
from fedkd.simulations.engines.local import LocalInstitutions

DISTILLATION_BATCH, DISTILLATION_RATE = 128, 1e-3
"""Of FedDF's student; the rate is Adam's, as in its paper."""
RELEASED = {Signal.LOGITS: "class scores", Signal.BN_GAP: "gaps to batch-norm statistics"}
"""What a row calls a signal; others are called by their own names."""


def train_centrally(federation: Federation, epochs: int) -> Row:
    """What all images in one place would give."""
    began, network = time.monotonic(), federation.network()
    data = federation.data
    train_locally(network, data.train_images, data.train_labels, epochs, federation.experiment.seed)
    accuracy = federation.test_accuracy(network)
    seconds = time.monotonic() - began
    return Row("central training", accuracy, 0, 0, seconds, "all images and labels")


def local_networks(
    federation: Federation, epochs: int, progress: Callable[[int], None]
) -> list[nn.Module]:
    """One network for each institution, trained on its images alone."""
    networks = []
    for index in range(len(federation.parts)):
        network = federation.network()
        train_locally(network, *federation.share(index), epochs, federation.experiment.seed + index)
        networks.append(network.eval())
        progress(index + 1)
    return networks


def average(networks: Sequence[nn.Module], sizes: Sequence[int], into: nn.Module) -> nn.Module:
    """``into``, with the mean of the networks' weights by the number of their images."""
    weights = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    states = [network.state_dict() for network in networks]
    mean = {
        key: sum(w * state[key].double() for w, state in zip(weights, states, strict=True))
        for key in states[0]
    }
    into.load_state_dict({key: mean[key].to(states[0][key].dtype) for key in mean})
    return into


def public_images(name: str, root: str | None, shape: tuple[int, int, int], count: int) -> Tensor:
    """Images of another data set, brought to ``shape``: grey where C is 1. uint8 (count, C, H, W).

    Raises:
        SettingsError, DataError: no such data.
    """
    images = as_float(open_data(name, root).train_images[:count])
    channels, height, width = shape
    if images.shape[1] != channels:
        images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    fitted = F.interpolate(images, (height, width), mode="area")
    return (255 * fitted).round().to(torch.uint8)


def run_feddf(
    federation: Federation,
    networks: Sequence[nn.Module],
    public: Tensor,
    steps: int,
    seconds: float,
) -> list[Row]:
    """The average of the networks, and what distillation on public images makes of it.

    Args:
        federation: whose test images are scored.
        networks: of its institutions.
        public: uint8 (N, C, H, W), unlabelled.
        steps: of the student.
        seconds: that training the networks took.
    """
    began = time.monotonic()
    sizes = [len(part) for part in federation.parts]
    student = average(networks, sizes, federation.network())
    once = sum(map(bytes_of, networks))
    seen = "weights of every institution's network, once"
    rows = [Row("FedAvg, one round", federation.test_accuracy(student), 1, 2 * once, seconds, seen)]
    with torch.no_grad():
        chunks = torch.split(as_float(public), 512)
        targets = torch.cat([sum(n(x) for n in networks) / len(networks) for x in chunks])
    order = torch.Generator().manual_seed(federation.experiment.seed)
    adam = torch.optim.Adam(student.train().parameters(), DISTILLATION_RATE)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        picked = torch.randint(len(public), (DISTILLATION_BATCH,), generator=order)
        said = student(as_float(public[picked])).log_softmax(1)
        loss = F.kl_div(
            said, targets[picked].log_softmax(1), log_target=True, reduction="batchmean"
        )
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
        cosine.step()
    accuracy = federation.test_accuracy(student)
    took = seconds + time.monotonic() - began
    return [*rows, Row("FedDF on public images, one round", accuracy, 1, 2 * once, took, seen)]


def run_fedkd(federation: Federation, vaults: Path, progress: Callable[[int], None]) -> Row:
    """The experiment itself, without a network; bytes are those that would have been sent."""
    began, experiment = time.monotonic(), federation.experiment
    local = LocalInstitutions(experiment, vaults, progress)
    parts = ingredients(experiment, local.cards)
    released: set[str] = set()

    def answer(request: Request) -> tuple[Answers, dict[str, Refusal | str]]:
        if isinstance(request, Ask):
            released.update(RELEASED.get(signal, signal.value) for signal in request.signals)
        elif request:
            released.add("gradients of samples")
        return local.answer(request)

    student = Coordinator(parts, list(local.cards), answer).finish().student
    traffic = local.traffic.values()
    epsilons = [card.guarantee.epsilon if card.guarantee else None for card in local.cards]
    promised = [epsilon for epsilon in epsilons if epsilon is not None]
    samples = "public" if parts.public is not None else "synthetic"
    return Row(
        "fedkd",
        student_accuracy(experiment, student),
        1,
        sum(t.bytes_sent + t.bytes_received for t in traffic),
        time.monotonic() - began,
        f"of {samples} samples: {', '.join(sorted(released))}",
        max(promised) if len(promised) == len(epsilons) else None,
    )
