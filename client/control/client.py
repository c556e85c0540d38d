"""What stands between Flower and an institution. Knows no question, no batch and no coordinator.

Whoever calls ``flwr run`` chooses the bundle that this file is in, so on an owner's machine it is
the other side's code. Where a node is configured with the owner's own agent, it hands the message
on to the agent's socket and does nothing else; the agent decides. It opens simulated institutions
and no others.
"""

import functools
import logging
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from safetensors.torch import save

from fedkd.client.control import framing as frames
from fedkd.client.institution import Institution, simulated
from fedkd.client.sessions.agent import Agent
from fedkd.errors import FedkdError, RemoteProtocolError
from fedkd.experiment import Experiment

AGENT = "agent"
"""In a node's configuration: the Unix socket of the owner's own agent."""
PARTITION = "partition-id"
"""In a node's configuration: which simulated institution it is."""
DECLINED = 2
"""Flower's code for a ClientApp that raised."""
FAILED = "this institution could not do what was asked; its own log says why"
AWAY = "the owner's agent does not answer; have the owner start fedkd-client serve"
NOBODY = (
    f"this node is no institution: its configuration has neither {AGENT}, the socket of an owner's "
    f"agent, nor {PARTITION}, of a simulated one"
)
SECONDS = 10.0
"""For the agent to take a message, or to say that it does."""
EXAMINATION_SECONDS = 600.0
"""For the agent to examine a student."""

log = logging.getLogger(__name__)


def forwarding_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A Flower mod: no exception's text leaves, and nothing is opened on an owner's machine.

    Flower would send the text of an exception to the coordinator, and it may quote private data.
    """
    try:
        if AGENT in context.node_config:
            return _passed_on(message, str(context.node_config[AGENT]))
        if PARTITION not in context.node_config:
            return _declined(message, NOBODY)
        return call_next(message, context)
    except FedkdError as error:
        log.error("%s", error)
    except Exception:
        log.exception("%s failed", message.metadata.message_type)
    return _declined(message, FAILED)


def opened(config: ConfigRecord, context: Context) -> Institution:
    """The simulated institution of this node, opened once in a process.

    Args:
        config: ``experiment`` as JSON, ``folder`` in which each keeps its own, and ``books``, where
            ledgers are kept that outlive this process; empty for in memory.
        context: of the node; its configuration says which institution it is.

    Raises:
        SettingsError: the experiment is none.
        DataError: the institution's data cannot be opened.
    """
    index = int(context.node_config[PARTITION])
    books = str(config.get("books", ""))
    return _institution(str(config["experiment"]), index, str(config["folder"]), books)


def ring(config: ConfigRecord, context: Context) -> None:
    """Have this node's simulated institution dial in, once for each token.

    Args:
        config: as `opened` reads it, and ``address`` and ``token`` of the hub.
        context: of the node. Flower keeps its state through a run, whichever process the next
            message reaches, so that is where the bell is noted.
    """
    rung = context.state.config_records.setdefault("rung", ConfigRecord())
    token = str(config["token"])
    if rung.get("token") == token:
        return
    institution = opened(config, context)
    agent = Agent(str(config["address"]), token, institution.card, institution.answer)
    name = f"fedkd-agent-{institution.card.name}"
    # The thread outlives the message: Ray's workers live as long as the run.
    threading.Thread(target=agent.serve, name=name, daemon=True).start()
    rung["token"] = token


@functools.cache
def _institution(experiment: str, index: int, folder: str, books: str) -> Institution:
    own, kept = Path(folder) / f"{index:04d}", Path(books) if books else None
    return simulated(Experiment.model_validate_json(experiment), index, own, books=kept)


# --- on an owner's machine


def _passed_on(message: Message, path: str) -> Message:
    """What the owner's agent makes of a message."""
    kind = message.metadata.message_type
    try:
        with frames.dialled(path, SECONDS) as line:
            answer = _ASKED[kind](message, line)
    except (OSError, RemoteProtocolError):
        return _declined(message, AWAY)
    if "objection" in answer:
        return _declined(message, str(answer["objection"]))
    name, record = _told(kind, answer)
    return Message(RecordDict({name: record}), reply_to=message)


def _ask_card(_: Message, line: socket.socket) -> dict[str, Any]:
    frames.say(line, {"verb": "card"}, SECONDS)
    return frames.hear(line, SECONDS)


def _ask_session(message: Message, line: socket.socket) -> dict[str, Any]:
    config = message.content.config_records["config"]
    asked = {name: config[name] for name in ("address", "token")}
    frames.say(line, {"verb": "session", **asked}, SECONDS)
    return frames.hear(line, SECONDS)


def _ask_examination(message: Message, line: socket.socket) -> dict[str, Any]:
    config = message.content.config_records["config"]
    asked = {name: config[name] for name in ("model", "classes", "shape")}
    frames.say(line, {"verb": "evaluate", **asked}, SECONDS)
    answer = frames.hear(line, SECONDS)
    if "go" in answer:
        state = message.content.array_records["student"].to_torch_state_dict()
        weights = save({name: tensor.contiguous() for name, tensor in state.items()})
        frames.send(line, weights, EXAMINATION_SECONDS)
        answer = frames.hear(line, EXAMINATION_SECONDS)
    return answer


_ASKED: dict[str, Callable[[Message, socket.socket], dict[str, Any]]] = {
    "query.card": _ask_card,
    "query.session": _ask_session,
    "evaluate": _ask_examination,
}
"""What each kind of message asks of the agent."""


def _told(kind: str, answer: dict[str, Any]) -> tuple[str, ConfigRecord | MetricRecord]:
    """An answer of the agent's as the record that a simulated institution would reply with."""
    if kind == "query.card":
        # Flower's records know no None.
        said = {name: [] if fact is None else fact for name, fact in answer["card"].items()}
        return "card", ConfigRecord(said)
    if kind == "query.session":
        return "session", ConfigRecord({"open": 1})
    if answer["score"] is None or not answer["score"][1]:
        return "score", MetricRecord()
    right, examples = answer["score"]
    return "score", MetricRecord({"accuracy": right / examples, "num-examples": examples})


def _declined(message: Message, text: str) -> Message:
    return Message(Error(DECLINED, text), reply_to=message)
