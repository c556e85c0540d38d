"""Federated averaging by Flower's own strategy and simulation, with or without DP-SGD.

Imports Flower: import it only within `fedkd.simulations.engines.flower_simulation.flower_runtime`.
The private variant is Opacus as its own documentation has it: every institution trains by DP-SGD,
and noise is calibrated for all local epochs of all rounds. Sources: McMahan et al. (AISTATS 2017);
Abadi et al. (CCS 2016).
"""

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
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
from fedkd.simulations.baselines.federation import (
    Federation,
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

client_app = ClientApp()


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
    federation = federation_of(str(config["federation"]))
    index, epochs = int(context.node_config["partition-id"]), int(str(config["epochs"]))
    images, labels = federation.share(index)
    network = federation.network()
    network.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    round_number = int(str(config["rounds-before"])) + int(str(config["server-round"]))
    seed = round_number * len(federation.parts) + index
    if epsilon := float(str(config["epsilon"])):
        rounds = int(str(config["rounds"]))
        with warnings.catch_warnings():  # of Opacus and torch, in every round of every worker
            warnings.simplefilter("ignore")
            _train_privately(network, images, labels, epochs, epsilon, rounds)
    else:
        train_locally(network, images, labels, epochs, seed)
    content = RecordDict({"arrays": ArrayRecord(network.state_dict())})
    content["metrics"] = MetricRecord({"num-examples": len(labels)})
    return Message(content, reply_to=message)


def _train_privately(
    network: nn.Module, images: Tensor, labels: Tensor, epochs: int, epsilon: float, rounds: int
) -> None:
    """DP-SGD for one round, in place, with the noise that all rounds together need."""
    loader = DataLoader(
        TensorDataset(as_float(images), labels), batch_size=min(PRIVATE_BATCH, len(labels))
    )
    noise = get_noise_multiplier(
        target_epsilon=epsilon,
        target_delta=DELTA,
        sample_rate=1 / len(loader),
        epochs=epochs * rounds,
    )
    learner, adam, batches = PrivacyEngine().make_private(
        module=network.train(),
        optimizer=torch.optim.Adam(network.parameters(), PRIVATE_RATE),
        data_loader=loader,
        noise_multiplier=noise,
        max_grad_norm=CLIPPING,
    )
    for _ in range(epochs):
        for x, y in batches:
            adam.zero_grad()
            if len(y):
                nn.functional.cross_entropy(learner(x), y).backward()  # type: ignore[no-untyped-call]
                adam.step()


def run_fedavg(
    name: str,
    settings: str,
    rounds: int,
    epochs: int,
    told: Callable[[int, float | None], None],
    epsilon: float = 0.0,
    every: int = 10,
    checkpoint: Path | None = None,
) -> Row:
    """Run federated averaging, in which every institution takes part in every round.

    Args:
        name: of the row.
        settings: the experiment, in JSON.
        rounds: of communication, >= 1.
        epochs: of local training in each.
        told: called after each round with the accuracy, where it was measured.
        epsilon: of DP-SGD at each institution over all rounds; 0: no privacy.
        every: rounds from one evaluation to the next; the last round is always evaluated.
        checkpoint: safetensors file of the averaged weights, written after each round; where it
            exists, the rounds go on from it.

    Raises:
        QuorumLost: an institution failed, or Flower ended without a model.
        SettingsError: the checkpoint is of other settings, or a network that cannot be private.
    """
    federation = federation_of(settings)
    if epsilon:
        check_private(federation.network())
    told_of = _told_of(settings, rounds, epochs, epsilon)
    _read_checkpoint(checkpoint, told_of)  # a wrong file ends it before Flower starts
    began, found = time.monotonic(), list[tuple[float, Mapping[str, Tensor]]]()
    failed: list[FedkdError] = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: "Grid", context: Context) -> None:
        try:
            found.append(
                averaged(
                    grid, federation, settings, rounds, epochs, told, epsilon, every, checkpoint
                )
            )
        except FedkdError as error:  # Flower would log it, and end without it
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
    travelled = 2 * rounds * len(federation.parts) * bytes_of(federation.network())
    seconds = time.monotonic() - began
    return Row(name, found[0][0], rounds, travelled, seconds, SEES, epsilon or None)


def averaged(
    grid: "Grid",
    federation: Federation,
    settings: str,
    rounds: int,
    epochs: int,
    told: Callable[[int, float | None], None],
    epsilon: float,
    every: int,
    checkpoint: Path | None = None,
) -> tuple[float, Mapping[str, Tensor]]:
    """Final accuracy and weights of Flower's strategy."""
    count, network = len(federation.parts), federation.network()
    told_of = _told_of(settings, rounds, epochs, epsilon)
    before, weights = _read_checkpoint(checkpoint, told_of)
    if weights is not None:
        network.load_state_dict(weights)
    config = ConfigRecord(
        {
            "federation": settings,
            "epochs": epochs,
            "epsilon": epsilon,
            "rounds": rounds,
            "rounds-before": before,
        }
    )
    scores: dict[int, float] = {}

    def evaluate(since: int, arrays: ArrayRecord) -> MetricRecord:
        round_number = before + since
        if checkpoint is not None and since:
            _write_checkpoint(checkpoint, told_of, round_number, arrays)
        last = round_number == rounds
        if round_number and (last or round_number % every == 0):
            network.load_state_dict(arrays.to_torch_state_dict())
            scores[round_number] = federation.test_accuracy(network)
        told(round_number, scores.get(round_number))
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
        num_rounds=rounds - before,
        train_config=config,
        evaluate_fn=evaluate,
    )
    if before == rounds:  # killed between its last round and its row
        return scores[rounds], network.state_dict()
    return scores[rounds], result.arrays.to_torch_state_dict()


def _told_of(settings: str, rounds: int, epochs: int, epsilon: float) -> dict[str, str]:
    """All that a checkpoint has to be of, to be gone on with."""
    return {
        "settings": settings,
        "rounds": str(rounds),
        "epochs": str(epochs),
        "epsilon": str(float(epsilon)),
    }


def _write_checkpoint(
    path: Path, told_of: Mapping[str, str], done: int, arrays: ArrayRecord
) -> None:
    """The averaged weights after ``done`` rounds; complete or not there at all."""
    unfinished = path.with_suffix(".unfinished")
    weights = {name: w.contiguous() for name, w in arrays.to_torch_state_dict().items()}
    save_file(weights, unfinished, {**told_of, "done": str(done)})
    unfinished.replace(path)


def _read_checkpoint(
    path: Path | None, told_of: Mapping[str, str]
) -> tuple[int, Mapping[str, Tensor] | None]:
    """Rounds done, and the averaged weights after them; 0 and None where nothing is there."""
    if path is None or not path.is_file():
        return 0, None
    with safe_open(path, "pt") as file:
        told = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if other := [name for name, value in told_of.items() if told.get(name) != value]:
        raise SettingsError(
            f"{path} is a checkpoint of other {', '.join(other)}; delete it, or give another --json"
        )
    return int(told["done"]), weights
