"""Federated averaging by Flower's own strategy and simulation, with or without DP-SGD.

Imports Flower: import it only within `fedkd.simulations.engines.flower_simulation.flower_runtime`.
The private variant is Opacus as its own documentation has it: every institution trains by DP-SGD,
and noise is calibrated for all local epochs of all rounds. Sources: McMahan et al. (AISTATS 2017);
Abadi et al. (CCS 2016).
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from opacus import PrivacyEngine
from opacus.accountants.utils import get_noise_multiplier
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedkd.errors import FedkdError, QuorumLost, SettingsError
from fedkd.protocol import as_float
from fedkd.server.report.records.run_folder import atomic_path
from fedkd.simulations.baselines.federation import (
    Row,
    bytes_of,
    check_private,
    federation_of,
    train_locally,
)

if TYPE_CHECKING:
    from flwr.serverapp import Grid

DELTA, CLIPPING, PRIVATE_BATCH, PRIVATE_RATE = 1e-5, 1.0, 256, 2e-3
"""Of DP-SGD; the rate is Adam's."""
SEES = "weights of every institution's network, every round"

Progress = Callable[[int, float | None], None]
"""Called after each round with its number and the accuracy, where that was measured."""

client_app = ClientApp()


@dataclass(frozen=True)
class FedAvgSettings:
    """Settings of federated averaging, all that its weights depend on.

    Raises:
        SettingsError: a number out of range.
    """

    experiment: str
    """In JSON; of data, partition, network and seed."""
    rounds: int
    """Of communication, >= 1."""
    epochs: int
    """Of local training in each round, >= 1."""
    epsilon: float | None = None
    """Of DP-SGD at each institution over all rounds, > 0; None: no privacy."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.epochs < 1:
            raise SettingsError(
                f"expected 1 round and 1 epoch or more, got {self.rounds} and {self.epochs}"
            )
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise SettingsError(f"expected epsilon above 0, got {self.epsilon}")

    def metadata(self) -> dict[str, str]:
        """Of a checkpoint, which is gone on with under the same settings alone."""
        return {name: str(value) for name, value in asdict(self).items()}


class StrictFedAvg(FedAvg):
    """FedAvg in which every institution takes part in every round, or the run ends."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The mean of all; Flower's own goes on with the others, and with the old weights.

        Raises:
            QuorumLost: an institution failed.
        """
        received = list(replies)
        failed = [reply for reply in received if reply.has_error()]
        if failed or len(received) < self.min_train_nodes:
            reason = failed[0].error.reason if failed else "no reply"
            raise QuorumLost(
                f"round {server_round}: {len(received) - len(failed)} of {self.min_train_nodes} "
                f"institutions trained; one of the others: {reason}"
            )
        return super().aggregate_train(server_round, received)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the global weights on this institution's images; its new weights."""
    config = message.content.config_records["config"]
    settings = FedAvgSettings(**json.loads(str(config["settings"])))
    federation = federation_of(settings.experiment)
    index = int(context.node_config["partition-id"])
    images, labels = federation.share(index)
    network = federation.network()
    network.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    round_number = int(str(config["rounds-before"])) + int(str(config["server-round"]))
    if settings.epsilon is not None:
        with warnings.catch_warnings():  # of Opacus and torch, in every round of every worker
            warnings.simplefilter("ignore")
            _train_privately(network, images, labels, settings, settings.epsilon)
    else:
        # Another order of the batches for each seed, round and institution.
        before = federation.experiment.seed * settings.rounds + round_number
        seed = before * len(federation.parts) + index
        train_locally(network, images, labels, settings.epochs, seed)
    content = RecordDict({"arrays": ArrayRecord(network.state_dict())})
    content["metrics"] = MetricRecord({"num-examples": len(labels)})
    return Message(content, reply_to=message)


def _train_privately(
    network: nn.Module, images: Tensor, labels: Tensor, settings: FedAvgSettings, epsilon: float
) -> None:
    """DP-SGD for one round, in place, with the noise that all rounds together need."""
    loader = DataLoader(
        TensorDataset(as_float(images), labels), batch_size=min(PRIVATE_BATCH, len(labels))
    )
    noise = get_noise_multiplier(
        target_epsilon=epsilon,
        target_delta=DELTA,
        sample_rate=1 / len(loader),
        epochs=settings.epochs * settings.rounds,
    )
    learner, adam, batches = PrivacyEngine().make_private(
        module=network.train(),
        optimizer=torch.optim.Adam(network.parameters(), PRIVATE_RATE),
        data_loader=loader,
        noise_multiplier=noise,
        max_grad_norm=CLIPPING,
    )
    for _ in range(settings.epochs):
        for x, y in batches:
            adam.zero_grad()
            if len(y):
                nn.functional.cross_entropy(learner(x), y).backward()  # type: ignore[no-untyped-call]
                adam.step()


def run_fedavg(
    name: str,
    settings: FedAvgSettings,
    progress: Progress,
    every: int = 10,
    checkpoint: Path | None = None,
) -> Row:
    """Run federated averaging, in which every institution takes part in every round.

    Args:
        name: of the row.
        settings: see `FedAvgSettings`.
        progress: see `Progress`.
        every: rounds from one evaluation to the next; the last round is always evaluated.
        checkpoint: safetensors file of the averaged weights, written after each round; where it
            exists, the rounds go on from it.

    Raises:
        QuorumLost: an institution failed, or Flower ended without a model.
        SettingsError: the checkpoint is of other settings, or a network that cannot be private.
    """
    federation = federation_of(settings.experiment)
    if settings.epsilon is not None:
        check_private(federation.network())
    _read_checkpoint(checkpoint, settings)  # a wrong file ends it before Flower starts
    began, found = time.monotonic(), list[tuple[float, Mapping[str, Tensor]]]()
    failed: list[FedkdError] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: "Grid", context: Context) -> None:
        try:
            found.append(averaged(grid, settings, progress, every, checkpoint))
        except FedkdError as error:  # whatever Flower does with it, the caller gets it as it is
            failed.append(error)

    run_simulation(
        server_app,
        client_app,
        num_supernodes=len(federation.parts),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    if failed:
        raise failed[0]
    if not found:
        raise QuorumLost("Flower's simulation ended without a model; see its log")
    rounds = settings.rounds
    travelled = 2 * rounds * len(federation.parts) * bytes_of(federation.network())
    seconds = time.monotonic() - began
    return Row(name, found[0][0], rounds, travelled, seconds, SEES, settings.epsilon)


def averaged(
    grid: "Grid",
    settings: FedAvgSettings,
    progress: Progress,
    every: int,
    checkpoint: Path | None = None,
) -> tuple[float, Mapping[str, Tensor]]:
    """Test accuracy in [0, 1] and weights after the last round of Flower's strategy.

    Args:
        grid: to one node for each institution.
        settings: see `FedAvgSettings`.
        progress: see `Progress`.
        every: as of `run_fedavg`.
        checkpoint: as of `run_fedavg`.

    Raises:
        QuorumLost: an institution failed.
        SettingsError: the checkpoint is of other settings.
    """
    federation = federation_of(settings.experiment)
    count, network = len(federation.parts), federation.network()
    before, weights = _read_checkpoint(checkpoint, settings)
    if weights is not None:
        network.load_state_dict(weights)
    config = ConfigRecord({"settings": json.dumps(asdict(settings)), "rounds-before": before})
    scores: dict[int, float] = {}

    def evaluate(since: int, arrays: ArrayRecord) -> MetricRecord:
        round_number = before + since
        if checkpoint is not None and since:
            _write_checkpoint(checkpoint, settings, round_number, arrays)
        last = round_number == settings.rounds
        if round_number and (last or round_number % every == 0):
            network.load_state_dict(arrays.to_torch_state_dict())
            scores[round_number] = federation.test_accuracy(network)
        progress(round_number, scores.get(round_number))
        return MetricRecord({"accuracy": scores.get(round_number, 0.0)})

    strategy = StrictFedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=count,
        min_evaluate_nodes=0,
        min_available_nodes=count,
    )
    result = strategy.start(
        grid,
        ArrayRecord(network.state_dict()),
        num_rounds=settings.rounds - before,
        train_config=config,
        evaluate_fn=evaluate,
    )
    if before == settings.rounds:  # killed between its last round and its row
        return scores[settings.rounds], network.state_dict()
    return scores[settings.rounds], result.arrays.to_torch_state_dict()


def _write_checkpoint(path: Path, settings: FedAvgSettings, done: int, arrays: ArrayRecord) -> None:
    """The averaged weights after ``done`` rounds; complete or not there at all."""
    weights = {name: w.contiguous() for name, w in arrays.to_torch_state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, {**settings.metadata(), "done": str(done)})


def _read_checkpoint(
    path: Path | None, settings: FedAvgSettings
) -> tuple[int, Mapping[str, Tensor] | None]:
    """Rounds done, and the averaged weights after them; 0 and None where nothing is there."""
    if path is None or not path.is_file():
        return 0, None
    with safe_open(path, "pt") as file:
        kept = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    wanted = settings.metadata()
    if other := [name for name, value in wanted.items() if kept.get(name) != value]:
        raise SettingsError(
            f"{path} is a checkpoint of other {', '.join(other)}; delete it, or give another --json"
        )
    return int(kept["done"]), weights
