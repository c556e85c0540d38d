"""The institution's Flower ClientApp: shows its card, lets itself be rung, examines students.

These functions are a simulated institution's. On an owner's machine none of them is reached: the
doorbell hands each message to the owner's own agent.

It answers no question about images: those go from the coordinator's hub to the institution's
agent, past Flower, once the doorbell has been rung.
"""

from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedkd.client.control.client import forwarding_mod, opened, ring
from fedkd.models import Shape, build_network

app = ClientApp(mods=[forwarding_mod])


@app.query("card")
def card(message: Message, context: Context) -> Message:
    """What the institution says of itself before anything is asked."""
    told = opened(_config(message), context).card
    record = ConfigRecord(
        {
            "name": told.name,
            "classes": told.classes,
            "class_names": list(told.class_names or ()),
            "shape": list(told.shape),
        }
    )
    return Message(RecordDict({"card": record}), reply_to=message)


@app.query("session")
def session(message: Message, context: Context) -> Message:
    """Have the institution dial in; ringing twice for one token does no more than once."""
    ring(_config(message), context)
    return Message(RecordDict({"session": ConfigRecord({"open": 1})}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """How well a student does on the institution's private test data, if its policy tells that."""
    config = _config(message)
    shape = cast(Shape, tuple(cast(list[int], config["shape"])))
    names = cast(list[str], config["classes"])
    student = build_network(str(config["model"]), len(names), shape, seed=0)
    arrays: ArrayRecord = message.content.array_records["student"]
    student.load_state_dict(arrays.to_torch_state_dict())
    score = opened(config, context).score(student, names)
    told = MetricRecord()
    if isinstance(score, tuple) and score[1]:
        right, examples = score
        told = MetricRecord({"accuracy": right / examples, "num-examples": examples})
    return Message(RecordDict({"score": told}), reply_to=message)


def _config(message: Message) -> ConfigRecord:
    return message.content.config_records["config"]
