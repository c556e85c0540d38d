"""Messages through Flower's grid: await nodes, broadcast, check replies, collect cards.

Flower waits without a limit and keeps messages for half a day by default, so everything here has a
timeout in seconds.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Annotated, TypeVar

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedkd.errors import QuorumLost
from fedkd.process.plural import counted
from fedkd.protocol import Card, Column, NamedTask, Number, card_violation
from fedkd.server.run.quorum import Quorum
from fedkd.tasks.released_scores import EXAMPLES
from fedkd.wire import one_line

CONFIG, ARRAYS, METRICS = "config", "arrays", "metrics"
"""Names of the records in messages and replies, as Flower's own strategies name them."""

Entry = TypeVar("Entry")
_COLUMNS, _NUMBERS = TypeAdapter(tuple[Column, ...]), TypeAdapter(tuple[Number, ...])
_TASKS = TypeAdapter(tuple[NamedTask, ...])

log = logging.getLogger("flwr")


class _PlainFields(BaseModel):
    """The fields of a card that Flower's records hold as they are."""

    model_config = ConfigDict(strict=True)

    name: str
    classes: int
    shape: Annotated[list[int], Field(min_length=3, max_length=3)]
    class_names: list[str] = Field(default_factory=list)


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


def collect_cards(grid: Grid, quorum: Quorum, config: ConfigRecord) -> tuple[Card, ...]:
    """The nodes' cards, with name, classes, input shape, columns, numbers and tasks only.

    Each institution sends its whole card when it connects to the hub. A node whose card cannot be
    is left out, with a warning.

    Raises:
        QuorumLost: fewer than a quorum came, or replied with a card.
    """
    nodes, timeout = await_nodes(grid, quorum), quorum.timeout
    messages = broadcast(nodes, RecordDict({CONFIG: config}), "query.card", timeout)
    replies = successful_replies(grid.send_and_receive(messages, timeout=timeout), quorum.minimum)
    cards, reasons = list[Card](), list[str]()
    for reply in replies:
        card = _card(reply.content)
        if isinstance(card, Card):
            cards.append(card)
        else:
            reasons.append(f"node {reply.metadata.src_node_id}: {card}")
            log.warning("a node is left out, %s", reasons[-1])
    if len(cards) < quorum.minimum:
        raise _too_few(len(cards), quorum.minimum, reasons)
    return tuple(cards)


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


def _card(content: RecordDict) -> Card | str:
    """The card in a reply, or why it is none, in one line that repeats no text of it."""
    record = content.config_records.get(CONFIG)
    if record is None:
        return f"a reply without a record {CONFIG}, expected one with a card"
    try:
        plain = _PlainFields.model_validate(dict(record))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        return f"a card with a malformed field {first['loc'][0]}: {first['msg']}"
    channels, height, width = plain.shape
    card = Card(
        plain.name,
        plain.classes,
        (channels, height, width),
        frozenset(),
        class_names=tuple(plain.class_names) or None,
        columns=_parsed(_COLUMNS, record.get("columns")),
        numbers=_parsed(_NUMBERS, record.get("numbers")),
        tasks=_parsed(_TASKS, record.get("tasks")),
        embedding=record.get("embedding") is True,
    )
    return card_violation(card) or card


def _parsed(kind: TypeAdapter[tuple[Entry, ...]], told: object) -> tuple[Entry, ...]:
    """Entries from JSON; none of what is malformed, so that the card fits no table or task."""
    try:
        return kind.validate_json(told) if isinstance(told, str) else ()
    except ValidationError:
        return ()
