"""One question by Flower's own messages, in its simulation: what our stream is there to avoid.

Imports Flower as it is imported: to be imported only within `fedkd.simulations.engines.flower_simulation.flower_runtime`.
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

COMING = 60.0
"""Seconds for the node to be there, and for a reply."""

client_app = ClientApp()


@client_app.query("ask")
def ask(message: Message, context: Context) -> Message:
    """The institution's answer, which is ready, and its process."""
    images = message.content.array_records["question"]["images"].numpy()
    logits = ArrayRecord({"logits": Array(preset_logits(len(images)).numpy())})
    where = ConfigRecord({"process": os.getpid()})
    return Message(RecordDict({"answer": logits, "where": where}), reply_to=message)


def within_a_run(measure: "Callable[[Callable[[Tensor], int]], None]") -> None:
    """Call ``measure`` from within a run of Flower's with one node.

    Args:
        measure: is given a function that asks the node about images, waits for its logits and
            returns the process that they come from.

    Raises:
        SettingsError: no node came, or it did not answer.
    """
    server_app = ServerApp()
    errors: list[Exception] = []

    @server_app.main()
    def main(grid: "Grid", context: Context) -> None:
        try:
            node = _node(grid)
            measure(lambda images: _trip(grid, node, images))
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
    end = time.monotonic() + COMING
    while not (nodes := list(grid.get_node_ids())):
        if time.monotonic() > end:
            raise SettingsError(f"no node of Flower's came within {COMING:g} s; free the machine")
        time.sleep(0.05)
    return nodes[0]


def _trip(grid: "Grid", node: int, images: Tensor) -> int:
    question = RecordDict({"question": ArrayRecord({"images": Array(images.numpy())})})
    message = Message(question, dst_node_id=node, message_type="query.ask")
    replies = list(grid.send_and_receive([message], timeout=COMING))
    if not replies or replies[0].has_error():
        raise SettingsError("Flower's node did not answer a message; free the machine")
    content = replies[0].content
    content.array_records["answer"]["logits"].numpy()
    return cast(int, content.config_records["where"]["process"])
