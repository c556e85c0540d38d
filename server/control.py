"""What goes through Flower: who is there, short questions, the bell. Knows no image and no loop.

Flower waits for ever and keeps messages for half a day unless it is told otherwise, so everything
here has its limit in seconds.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from typing import cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedkd.errors import QuorumLost, SettingsError
from fedkd.signals import Card

CONFIG = "config"
"""Name of the record that tells an institution what is wanted."""
LOOK_AGAIN = 0.2
"""Seconds between looks for nodes that are not there yet."""

log = logging.getLogger("flwr")


def await_nodes(grid: Grid, count: int, timeout: float) -> tuple[int, ...]:
    """Every node that is there, once ``count`` are; none may be when a ServerApp starts.

    Raises:
        QuorumLost: fewer came within ``timeout`` seconds.
    """
    deadline, told = time.monotonic() + timeout, -1
    while len(nodes := tuple(sorted(grid.get_node_ids()))) < count:
        if len(nodes) != told:
            told = len(nodes)
            log.info("%s of %s nodes are here; waiting at most %g s", told, count, timeout)
        if time.monotonic() > deadline:
            raise QuorumLost(
                f"{len(nodes)} nodes came within {timeout:g} s, expected {count}; start the "
                f"SuperNodes that are missing, or give the simulation {count}"
            )
        time.sleep(LOOK_AGAIN)
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


def roll_call(grid: Grid, count: int, config: ConfigRecord, timeout: float) -> tuple[Card, ...]:
    """What ``count`` nodes are asked about: cards with name, classes and the shape that they share.

    Signals are not on them; each institution shows its whole card when it dials in.

    Raises:
        QuorumLost: fewer came, or replied.
        SettingsError: they do not agree on the shape.
    """
    nodes = await_nodes(grid, count, timeout)
    messages = to_all(nodes, RecordDict({CONFIG: config}), "query.card", timeout)
    replies = accepted(grid.send_and_receive(messages, timeout=timeout), count)
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
