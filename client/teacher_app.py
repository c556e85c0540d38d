"""Flower ClientApp of a user's own teacher, from a function that loads it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from flwr.app import ConfigRecord, Context
from flwr.clientapp import ClientApp
from torch import nn

from fedkd.client.control.flower_forwarding import PARTITION_KEY
from fedkd.client.institution import Institution, brought_institution
from fedkd.client.institution_app import institution_app
from fedkd.errors import SettingsError
from fedkd.models import Classes, Outputs, Shape
from fedkd.privacy import Policy

LoadTeacher = Callable[[Context], object]
"""From a node's context to its teacher; ``context.node_config["partition-id"]`` is its number."""
BuildStudent = Callable[[int, Shape], nn.Module]
"""(K, (C, H, W)) -> the student that the ServerApp trains, of any weights."""
EvaluateStudent = Callable[[nn.Module, Context], Mapping[str, int | float]]
"""From the student with its weights and a node's context to what is released of its scores:
``num-examples``, and ``accuracy`` in [0, 1]."""


def teacher_app(
    load_teacher: LoadTeacher,
    *,
    policy: Policy | None = None,
    shape: tuple[int, int, int] | None = None,
    classes: Classes = None,
    outputs: Outputs = "logits",
    schema: str | Path | None = None,
    student: BuildStudent | None = None,
    evaluate: EvaluateStudent | None = None,
) -> ClientApp:
    """A ClientApp whose nodes answer with the teachers that ``load_teacher`` returns.

    It is for nodes whose process lives as long as a run: those of a simulation. On an owner's node
    ``agent`` in the node's configuration names the socket of ``fedkd-client serve``, and this app
    forwards every message to it; Flower starts a process for each message there.

    Args:
        load_teacher: called once in a process for each node; returns what `fedkd.fit` takes as a
            teacher.
        policy: what each may be asked; None: class scores, of as many samples as are asked.
        shape: (C, H, W) of the teachers' images; a `TeacherSpec` says it itself.
        classes: number or names of their outputs; modules and classifiers can do without. Of a
            federation with several tasks: names of classes by name of task.
        outputs: "probabilities" where modules or files end in a softmax.
        schema: where they read rows of a table, its TOML file, in place of shape and classes.
        student: builds the student, to be evaluated; with ``evaluate``.
        evaluate: scores it on the node's own test data; None: nobody does.

    Raises:
        SettingsError: one of ``student`` and ``evaluate`` is missing.
    """
    if (student is None) != (evaluate is None):
        raise SettingsError("evaluation takes both student and evaluate; give both or neither")
    allowed, opened = Policy() if policy is None else policy, dict[int, Institution]()

    def open_institution(config: ConfigRecord, context: Context) -> Institution:
        del config
        index = int(context.node_config[PARTITION_KEY])
        if index not in opened:
            opened[index] = brought_institution(
                *(f"institution-{index}", load_teacher(context), allowed),
                shape=shape,
                classes=classes,
                outputs=outputs,
                schema=None if schema is None else Path(schema),
            )
        return opened[index]

    def score(
        weights: Mapping[str, Any], config: ConfigRecord, context: Context
    ) -> Mapping[str, Any]:
        if student is None or evaluate is None:
            return {}
        sides = cast(Shape, tuple(cast(list[int], config["shape"])))
        network = student(len(cast(list[str], config["classes"])), sides)
        network.load_state_dict(weights)
        return evaluate(network.eval(), context)

    return institution_app(open_institution, score)
