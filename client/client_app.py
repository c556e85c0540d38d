"""Flower ClientApp of a simulated institution: give the card, open a session, evaluate a student.

On an owner's machine none of these functions is reached: `forwarding_mod` forwards each message to
the owner's agent. Queries about samples never pass through Flower: they go from the coordinator's
hub to the institution's agent, once a session is open.
"""

import functools
import threading
from dataclasses import asdict
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedkd.client.control.flower_forwarding import PARTITION_KEY, forwarding_mod, table_fields
from fedkd.client.institution import Institution, simulated_institution
from fedkd.client.sessions import Agent
from fedkd.experiment import Experiment
from fedkd.models import Shape, build_network, build_table_network
from fedkd.protocol import Refusal
from fedkd.tasks import released_score

app = ClientApp(mods=[forwarding_mod])


@app.query("card")
def card(message: Message, context: Context) -> Message:
    """Give the institution's card."""
    card = _institution_of(_config(message), context).card
    record = ConfigRecord(
        {
            "name": card.name,
            "classes": card.classes,
            "class_names": list(card.class_names or ()),
            "shape": list(card.shape),
            **table_fields(asdict(card)),
        }
    )
    return Message(RecordDict({"card": record}), reply_to=message)


@app.query("session")
def session(message: Message, context: Context) -> Message:
    """Open the institution's session with the hub; a second request for one token does nothing."""
    _open_session(_config(message), context)
    return Message(RecordDict({"session": ConfigRecord({"open": 1})}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate a student on the institution's private test data, if its policy releases scores."""
    config = _config(message)
    shape = cast(Shape, tuple(cast(list[int], config["shape"])))
    names = cast(list[str], config["classes"])
    institution, model = _institution_of(config, context), str(config["model"])
    # Whoever simulates an institution sent the experiment that names the student.
    if columns := institution.card.columns:
        student = build_table_network(model, len(names), columns, seed=0, imports=True)
    else:
        student = build_network(model, len(names), shape, seed=0, imports=True)
    arrays: ArrayRecord = message.content.array_records["student"]
    student.load_state_dict(arrays.to_torch_state_dict())
    score = institution.score(student, names)
    known = {} if isinstance(score, Refusal) else released_score(score)
    return Message(RecordDict({"score": MetricRecord(dict(known))}), reply_to=message)


def _config(message: Message) -> ConfigRecord:
    return message.content.config_records["config"]


def _institution_of(config: ConfigRecord, context: Context) -> Institution:
    """The simulated institution of this node, opened once in a process.

    Args:
        config: ``experiment`` as JSON, ``folder`` in which each institution has its own, and
            ``ledgers``, a folder where they outlive this process; empty for in memory.
        context: of the node; its configuration says which institution it is.

    Raises:
        SettingsError: the experiment is none.
        DataError: the institution's data cannot be opened.
    """
    index = int(context.node_config[PARTITION_KEY])
    ledgers = str(config.get("ledgers", ""))
    return _open_institution(str(config["experiment"]), index, str(config["folder"]), ledgers)


@functools.cache
def _open_institution(experiment: str, index: int, folder: str, ledgers: str) -> Institution:
    own = Path(folder) / f"{index:04d}"
    settings = Experiment.model_validate_json(experiment)
    return simulated_institution(settings, index, own, ledgers=Path(ledgers) if ledgers else None)


def _open_session(config: ConfigRecord, context: Context) -> None:
    """Start the agent of this node's simulated institution, once for each token.

    Args:
        config: as `_institution_of` reads it, and ``address`` and ``token`` of the hub.
        context: of the node. Flower keeps its state through a run, whichever process the next
            message reaches, so it records the token there.
    """
    opened = context.state.config_records.setdefault("session", ConfigRecord())
    token = str(config["token"])
    if opened.get("token") == token:
        return
    institution = _institution_of(config, context)
    agent = Agent(str(config["address"]), token, institution.card, institution.answer)
    name = f"fedkd-agent-{institution.card.name}"
    # The thread outlives the message: Ray's workers live as long as the run.
    threading.Thread(target=agent.serve, name=name, daemon=True).start()
    opened["token"] = token
