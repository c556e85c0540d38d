"""What stands between Flower and an institution. Knows no question, no batch and no coordinator.

Whoever calls ``flwr run`` chooses the bundle that this file is in, so on an owner's machine it is
the other side's code. It therefore opens simulated institutions and no others: where a node is
configured with the owner's own agent, it declines before it touches anything.
"""

import functools
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

from flwr.app import ConfigRecord, Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable

from client.agent import Agent
from client.institution import Institution, simulated
from fedkd.errors import FedkdError
from fedkd.experiment import Experiment

AGENT = "agent"
"""In a node's configuration: the owner's own agent process, which a bundle may not replace."""
PARTITION = "partition-id"
"""In a node's configuration: which simulated institution it is."""
DECLINED = 2
"""Flower's code for a ClientApp that raised."""
FAILED = "this institution could not do what was asked; its own log says why"

log = logging.getLogger(__name__)


def discreet(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """A Flower mod: no exception's text leaves, and nothing is opened on an owner's machine.

    Flower would send the text of an exception to the coordinator, and it may quote private data.
    """
    if objection := _objection(context.node_config):
        return Message(Error(DECLINED, objection), reply_to=message)
    try:
        return call_next(message, context)
    except FedkdError as error:
        log.error("%s", error)
    except Exception:
        log.exception("%s failed", message.metadata.message_type)
    return Message(Error(DECLINED, FAILED), reply_to=message)


def opened(config: ConfigRecord, context: Context) -> Institution:
    """The simulated institution of this node, opened once in a process.

    Args:
        config: ``experiment`` as JSON, ``folder`` in which each keeps its own.
        context: of the node; its configuration says which institution it is.

    Raises:
        SettingsError: the experiment is none.
        DataError: the institution's data cannot be opened.
    """
    index = int(context.node_config[PARTITION])
    return _institution(str(config["experiment"]), index, str(config["folder"]))


def ring(config: ConfigRecord, context: Context) -> None:
    """Have this node's institution dial in, once for each token.

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


def _objection(node: Mapping[str, object]) -> str | None:
    """Why nothing may be opened on a node of this configuration; None where it may."""
    if AGENT in node:
        return (
            "this node is an owner's (its configuration names an agent) and a bundle cannot open "
            "an owner's vault; have the owner start fedkd-client serve"
        )
    if PARTITION not in node:
        return (
            f"this node is no simulated institution (its configuration has no {PARTITION}); "
            "run in Flower's simulation"
        )
    return None


@functools.cache
def _institution(experiment: str, index: int, folder: str) -> Institution:
    own = Path(folder) / f"{index:04d}"
    return simulated(Experiment.model_validate_json(experiment), index, own)
