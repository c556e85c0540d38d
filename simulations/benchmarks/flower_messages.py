"""A query as a Flower message in its simulation, as a baseline for the wire benchmark.

Imports Flower: import it only within `fedkd.simulations.engines.flower_simulation.flower_runtime`.
"""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.simulations.benchmarks.fedkd_transport import preset_logits

if TYPE_CHECKING:
    from flwr.serverapp import Grid

TIMEOUT = 60.0
"""Seconds for the node to start, and for a reply."""

client_app = ClientApp()


@client_app.query("ask")
def ask(message: Message, context: Context) -> Message:
    """The institution's precomputed answer, and its process id."""
    images = message.content.array_records["question"]["images"].numpy()
    logits = ArrayRecord({"logits": Array(preset_logits(len(images)).numpy())})
    where = ConfigRecord({"process": os.getpid()})
    return Message(RecordDict({"answer": logits, "where": where}), reply_to=message)


def measure_in_run(measure: "Callable[[Callable[[Tensor], int]], None]") -> None:
    """Call ``measure`` within a Flower run with one node.

    Args:
        measure: called with a function that asks the node about images, waits for its logits
            and returns its process id.

    Raises:
        SettingsError: no node started, or it did not answer.
    """
    server_app = ServerApp()
    errors: list[Exception] = []

    @server_app.main()
    def main(grid: "Grid", context: Context) -> None:
        try:
            node = _node(grid)
            measure(lambda images: _round_trip(grid, node, images))
        except Exception as error:  # Flower would only log it
            errors.append(error)

    run_simulation(
        server_app,
        client_app,
        num_supernodes=1,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    if errors:
        raise errors[0]


def _node(grid: "Grid") -> int:
    end = time.monotonic() + TIMEOUT
    while not (nodes := list(grid.get_node_ids())):
        if time.monotonic() > end:
            raise SettingsError(f"no Flower node started within {TIMEOUT:g} s; free the machine")
        time.sleep(0.05)
    return nodes[0]


def _round_trip(grid: "Grid", node: int, images: Tensor) -> int:
    question = RecordDict({"question": ArrayRecord({"images": Array(images.numpy())})})
    message = Message(question, dst_node_id=node, message_type="query.ask")
    replies = list(grid.send_and_receive([message], timeout=TIMEOUT))
    if not replies or replies[0].has_error():
        raise SettingsError("Flower's node did not answer a message; free the machine")
    content = replies[0].content
    content.array_records["answer"]["logits"].numpy()
    return cast(int, content.config_records["where"]["process"])
