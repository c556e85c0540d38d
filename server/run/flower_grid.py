"""Messages through Flower's grid: await nodes, broadcast, check replies.

Flower waits without a limit and keeps messages for half a day by default, so everything here has a
timeout in seconds.
"""

import logging
from collections.abc import Iterable, Sequence

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedkd.errors import QuorumLost
from fedkd.process.plural import counted
from fedkd.server.run.quorum import Quorum
from fedkd.tasks.released_scores import EXAMPLES
from fedkd.wire import one_line

CONFIG, ARRAYS, METRICS = "config", "arrays", "metrics"
"""Names of the records in messages and replies, as Flower's own strategies name them."""

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
    reasons = sorted({one_line(str(reply.error.reason)) for reply in every if reply.has_error()})
    for reason in reasons:
        log.warning("an institution declined: %s", reason)
    if len(good) < fewest:
        raise _too_few(len(good), fewest, reasons)
    return good


def released_scores(replies: Iterable[Message]) -> list[MetricRecord]:
    """The scores in replies, each with its number of examples; malformed ones are left out."""
    found = []
    for reply in successful_replies(replies, 0):
        scores = reply.content.metric_records.get(METRICS)
        examples = 0 if scores is None else scores.get(EXAMPLES, 0)  # its policy may forbid scores
        if scores is None or type(examples) is not int or examples < 0:
            log.warning(
                "the scores of node %s are left out: expected a record %s whose %s is a whole "
                "number from 0",
                *(reply.metadata.src_node_id, METRICS, EXAMPLES),
            )
        elif EXAMPLES in scores:
            found.append(scores)
    return found


def _too_few(count: int, fewest: int, reasons: Sequence[str]) -> QuorumLost:
    why = one_line("; ".join(reasons)) or "no reply came in time"
    return QuorumLost(f"{count} institutions replied, expected {fewest}: {why}")
