"""Messages through Flower's grid: await nodes, broadcast, check replies, collect cards.

Flower waits without a limit and keeps messages for half a day by default, so everything here has a
timeout in seconds.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from pydantic import TypeAdapter, ValidationError

from fedkd.errors import QuorumLost
from fedkd.process.plural import counted
from fedkd.protocol import Card, Column, NamedTask, Number
from fedkd.server.run.quorum import Quorum

CONFIG, ARRAYS, METRICS = "config", "arrays", "metrics"
"""Names of the records in messages and replies, as Flower's own strategies name them."""

Entry = TypeVar("Entry")
_COLUMNS, _NUMBERS = TypeAdapter(tuple[Column, ...]), TypeAdapter(tuple[Number, ...])
_TASKS = TypeAdapter(tuple[NamedTask, ...])

log = logging.getLogger("flwr")


def await_nodes(grid: Grid, quorum: Quorum) -> tuple[int, ...]:
    """The connected nodes, once they are enough; there may be none when a ServerApp starts.

    Raises:
        QuorumLost: fewer than a quorum came.
    """
    count, seconds, reported = quorum.expected, quorum.timeout, -1

    def progress(here: int) -> None:
        nonlocal reported
        if here < count and here != reported:
            nodes = counted(here, "node is", "nodes are")
            log.info("%s here, of %s; waiting at most %g s", nodes, count, seconds)
        reported = here

    nodes = quorum.wait_for(lambda: sorted(grid.get_node_ids()), progress)
    if len(nodes) < quorum.minimum:
        raise QuorumLost(
            f"{len(nodes)} nodes came within {seconds:g} s, expected {quorum.minimum}; start the "
            f"SuperNodes that are missing, or give the simulation {quorum.minimum}"
        )
    return nodes


def broadcast(
    nodes: Sequence[int], content: RecordDict, kind: str, timeout: float
) -> Iterable[Message]:
    """One message for each node; their content is shared, not copied."""
    return [Message(content, dst_node_id=node, message_type=kind, ttl=timeout) for node in nodes]


def successful_replies(replies: Iterable[Message], fewest: int) -> list[Message]:
    """The replies without an error.

    Raises:
        QuorumLost: there are fewer than ``fewest``; the message has the errors of the others.
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


def collect_cards(grid: Grid, quorum: Quorum, config: ConfigRecord) -> tuple[Card, ...]:
    """The nodes' cards, with name, classes, input shape, columns, numbers and tasks only.

    Each institution sends its whole card when it connects to the hub.

    Raises:
        QuorumLost: fewer than a quorum came, or replied.
    """
    nodes, timeout = await_nodes(grid, quorum), quorum.timeout
    messages = broadcast(nodes, RecordDict({CONFIG: config}), "query.card", timeout)
    replies = successful_replies(grid.send_and_receive(messages, timeout=timeout), quorum.minimum)
    return tuple(_card(reply.content.config_records[CONFIG]) for reply in replies)


def _card(record: ConfigRecord) -> Card:
    channels, height, width = cast(list[int], record["shape"])
    return Card(
        cast(str, record["name"]),
        cast(int, record["classes"]),
        (channels, height, width),
        frozenset(),
        class_names=tuple(cast(list[str], record["class_names"])) or None,
        columns=_parsed(_COLUMNS, record.get("columns")),
        numbers=_parsed(_NUMBERS, record.get("numbers")),
        tasks=_parsed(_TASKS, record.get("tasks")),
        embedding=record.get("embedding") is True,
    )


def _parsed(kind: TypeAdapter[tuple[Entry, ...]], told: object) -> tuple[Entry, ...]:
    """Entries from JSON; none of what is malformed, so that the card fits no table or task."""
    try:
        return kind.validate_json(told) if isinstance(told, str) else ()
    except ValidationError:
        return ()
