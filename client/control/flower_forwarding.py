"""Client of the control socket: a Flower mod that forwards messages to the owner's agent.

Whoever calls ``flwr run`` chooses the bundle, and a bundle may bring code of its own: on an owner's
machine whatever runs here has to be taken for the other side's. Where a node is configured with
the owner's agent, it forwards the message to the agent's socket and does nothing else; the agent
decides. Only on nodes of a simulation does the ClientApp see the message itself.
"""

import logging
import socket
from collections.abc import Callable
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from safetensors.torch import save

from fedkd.client.control import framing
from fedkd.errors import FedkdError, RemoteProtocolError
from fedkd.tasks import released_score

AGENT_KEY = "agent"
"""Key of a node's configuration: the control socket of the owner's agent."""
PARTITION_KEY = "partition-id"
"""Key of a node's configuration: the index of a simulated institution."""
CONFIG, ARRAYS, METRICS = "config", "arrays", "metrics"
"""Names of the records in messages and replies, as Flower's own strategies name them."""
CLIENT_APP_ERROR = 2
"""Flower's code for a ClientApp that raised."""
FAILED = "this institution could not do what was asked; its own log says why"
AGENT_UNREACHABLE = "the owner's agent does not answer; have the owner start fedkd-client serve"
NOT_AN_INSTITUTION = (
    f"this node is no institution: its configuration has neither {AGENT_KEY}, the socket of an "
    f"owner's agent, nor {PARTITION_KEY}, of a simulated one"
)
TIMEOUT_SECONDS = 10.0
"""For the agent to accept a request, and to answer one."""
EVALUATION_TIMEOUT_SECONDS = 600.0
"""For the agent to evaluate a student."""

log = logging.getLogger(__name__)


def forwarding_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Flower mod: forward to the owner's agent where there is one; errors leave without their text.

    Flower would send the text of an exception to the coordinator, and it may quote private data.
    """
    try:
        if AGENT_KEY in context.node_config:
            return _forward(message, str(context.node_config[AGENT_KEY]))
        if PARTITION_KEY not in context.node_config:
            return _error(message, NOT_AN_INSTITUTION)
        return call_next(message, context)
    except FedkdError as error:
        log.error("%s", error)
    except Exception:
        log.exception("%s failed", message.metadata.message_type)
    return _error(message, FAILED)


def _forward(message: Message, path: str) -> Message:
    """The reply to a message, from the owner's agent."""
    kind = message.metadata.message_type
    try:
        with framing.connect(path, TIMEOUT_SECONDS) as connection:
            answer = _REQUESTS[kind](message, connection)
    except (OSError, RemoteProtocolError):
        return _error(message, AGENT_UNREACHABLE)
    if "objection" in answer:
        return _error(message, str(answer["objection"]))
    name, record = _as_record(kind, answer)
    return Message(RecordDict({name: record}), reply_to=message)


def _request_session(message: Message, connection: socket.socket) -> dict[str, Any]:
    config = message.content.config_records[CONFIG]
    arguments = {name: config[name] for name in ("address", "token")}
    framing.send_json(connection, {"verb": "session", **arguments}, TIMEOUT_SECONDS)
    return framing.receive_json(connection, TIMEOUT_SECONDS)


def _request_evaluation(message: Message, connection: socket.socket) -> dict[str, Any]:
    config = message.content.config_records[CONFIG]
    arguments = {name: config.get(name, "") for name in ("model", "classes", "shape")}
    framing.send_json(connection, {"verb": "evaluate", **arguments}, TIMEOUT_SECONDS)
    answer = framing.receive_json(connection, TIMEOUT_SECONDS)
    if "go" in answer:
        state = message.content.array_records[ARRAYS].to_torch_state_dict()
        weights = save({name: tensor.contiguous() for name, tensor in state.items()})
        framing.send_frame(connection, weights, EVALUATION_TIMEOUT_SECONDS)
        answer = framing.receive_json(connection, EVALUATION_TIMEOUT_SECONDS)
    return answer


_REQUESTS: dict[str, Callable[[Message, socket.socket], dict[str, Any]]] = {
    "query.session": _request_session,
    "evaluate": _request_evaluation,
}
"""The request to the agent for each type of message."""


def _as_record(kind: str, answer: dict[str, Any]) -> tuple[str, ConfigRecord | MetricRecord]:
    """The agent's answer as the record that a simulated institution would reply with."""
    if kind == "query.session":
        return CONFIG, ConfigRecord({"open": 1})
    return METRICS, MetricRecord(dict(released_score(answer["score"])))


def _error(message: Message, text: str) -> Message:
    return Message(Error(CLIENT_APP_ERROR, text), reply_to=message)
