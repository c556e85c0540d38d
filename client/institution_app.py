"""Flower ClientApp of an institution in its process: open a session, evaluate a student.

Contents of messages have Flower's names: ``config``, ``arrays`` and ``metrics``. The card, and
queries about samples, never pass through Flower: agent and hub exchange them, once a session is
open. On an owner's machine none of these functions is reached: `forwarding_mod` forwards each
message to the owner's agent.
"""

import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedkd.client.control.flower_forwarding import (
    AGENT_KEY,
    ARRAYS,
    CONFIG,
    METRICS,
    forwarding_mod,
)
from fedkd.client.institution import Institution
from fedkd.client.sessions import Agent
from fedkd.errors import SettingsError

OpenInstitution = Callable[[ConfigRecord, Context], Institution]
"""From a message's config and the node's context; the same one whenever it is called."""
Evaluate = Callable[[Mapping[str, Any], ConfigRecord, Context], Mapping[str, Any]]
"""From a student's weights by name, the message's config and the node's context: what is released
of its scores, as metrics."""

PROCESS_FOR_A_MESSAGE = "flwr-clientapp"
"""The program that a deployed node starts anew for each message."""


def institution_app(open_institution: OpenInstitution, evaluate: Evaluate) -> ClientApp:
    """The ClientApp of the institutions that a function opens."""
    app = ClientApp(mods=[forwarding_mod])

    @app.query("session")
    def session(message: Message, context: Context) -> Message:
        _open_session(open_institution, message.content.config_records[CONFIG], context)
        return Message(RecordDict({CONFIG: ConfigRecord({"open": 1})}), reply_to=message)

    @app.evaluate()
    def score(message: Message, context: Context) -> Message:
        weights = message.content.array_records[ARRAYS].to_torch_state_dict()
        known = evaluate(weights, message.content.config_records[CONFIG], context)
        return Message(RecordDict({METRICS: MetricRecord(dict(known))}), reply_to=message)

    return app


def _open_session(
    open_institution: OpenInstitution, config: ConfigRecord, context: Context
) -> None:
    """Start the agent of this node's institution, once for each token.

    Args:
        open_institution: see `OpenInstitution`.
        config: has ``address`` and ``token`` of the hub.
        context: of the node. Flower keeps its state through a run, whichever process the next
            message reaches, so it records the token there.

    Raises:
        SettingsError: the process would end before the session does.
    """
    opened = context.state.config_records.setdefault("session", ConfigRecord())
    token = str(config["token"])
    if opened.get("token") == token:
        return
    if Path(sys.argv[0]).name == PROCESS_FOR_A_MESSAGE:
        raise SettingsError(
            "this node ends its process after each message, and no session outlives it; start "
            f"fedkd-client serve, and name its socket in the node's configuration: {AGENT_KEY}=..."
        )
    institution = open_institution(config, context)
    agent = Agent(str(config["address"]), token, institution.card, institution.answer)
    name = f"fedkd-agent-{institution.card.name}"
    # The thread outlives the message: Ray's workers live as long as the run.
    threading.Thread(target=agent.serve, name=name, daemon=True).start()
    opened["token"] = token
