"""What goes through Flower: who is there, short questions, the bell. Knows no image and no loop.

Flower waits for ever and keeps messages for half a day unless it is told otherwise, so everything
here has its limit in seconds.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedkd.errors import QuorumLost, SettingsError
from fedkd.protocol.signals import Card
from fedkd.server.run.quorum import Muster

CONFIG = "config"
"""Name of the record that tells an institution what is wanted."""

log = logging.getLogger("flwr")


def await_nodes(grid: Grid, muster: Muster) -> tuple[int, ...]:
    """Every node that is there, once they are enough; none may be when a ServerApp starts.

    Raises:
        QuorumLost: fewer than a quorum came.
    """
    count, seconds, told = muster.count, muster.patience, -1

    def tell(here: int) -> None:
        nonlocal told
        if here not in (told, count):
            log.info("%s of %s nodes are here; waiting at most %g s", here, count, seconds)
        told = here

    nodes = muster.assemble(lambda: sorted(grid.get_node_ids()), tell)
    if len(nodes) < muster.quorum:
        raise QuorumLost(
            f"{len(nodes)} nodes came within {seconds:g} s, expected {muster.quorum}; start the "
            f"SuperNodes that are missing, or give the simulation {muster.quorum}"
        )
    return nodes


def to_all(
    nodes: Sequence[int], content: RecordDict, kind: str, timeout: float
) -> Iterable[Message]:
    """The same message for every node; its content is shared, not copied."""
    return [Message(content, dst_node_id=node, message_type=kind, ttl=timeout) for node in nodes]


def accepted(replies: Iterable[Message], fewest: int) -> list[Message]:
    """The replies that are none of errors.

    Raises:
        QuorumLost: there are fewer than ``fewest``; the message says what the others said.
    """
    every = list(replies)
    good = [reply for reply in every if not reply.has_error()]
    reasons = sorted({str(reply.error.reason) for reply in every if reply.has_error()})
    for reason in reasons:
        log.warning("an institution declined: %s", reason)
    if len(good) < fewest:
        why = "; ".join(reasons) or "no reply came in time"
        raise QuorumLost(f"{len(good)} institutions replied, expected {fewest}: {why}")
    return good


def roll_call(grid: Grid, muster: Muster, config: ConfigRecord) -> tuple[Card, ...]:
    """What nodes are asked about: cards with name, classes and the shape that they share.

    Signals are not on them; each institution shows its whole card when it dials in.

    Raises:
        QuorumLost: fewer than a quorum came, or replied.
        SettingsError: they do not agree on the shape.
    """
    nodes, timeout = await_nodes(grid, muster), muster.patience
    messages = to_all(nodes, RecordDict({CONFIG: config}), "query.card", timeout)
    replies = accepted(grid.send_and_receive(messages, timeout=timeout), muster.quorum)
    cards = tuple(_card(reply.content.config_records["card"]) for reply in replies)
    if len(shapes := {card.shape for card in cards}) > 1:
        kinds = "; ".join(f"images of {shape}" for shape in sorted(shapes))
        raise SettingsError(f"institutions differ ({kinds}); all teachers of a run must agree")
    return cards


def _card(told: ConfigRecord) -> Card:
    channels, height, width = cast(list[int], told["shape"])
    return Card(
        cast(str, told["name"]),
        cast(int, told["classes"]),
        (channels, height, width),
        frozenset(),
        class_names=tuple(cast(list[str], told["class_names"])) or None,
    )
