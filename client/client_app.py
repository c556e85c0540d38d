"""Flower ClientApp of a simulated institution, whose experiment comes with each message."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from flwr.app import ConfigRecord, Context

from fedkd.client.control.flower_forwarding import PARTITION_KEY
from fedkd.client.institution import Institution, simulated_institution
from fedkd.client.institution_app import institution_app
from fedkd.experiment import Experiment
from fedkd.models import Shape, build_network, build_table_network
from fedkd.protocol import Refusal
from fedkd.tasks import released_score


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
    node = int(context.node_config[PARTITION_KEY])
    ledgers = str(config.get("ledgers", ""))
    return _open_institution(str(config["experiment"]), node, str(config["folder"]), ledgers)


@functools.cache
def _open_institution(experiment: str, node: int, folder: str, ledgers: str) -> Institution:
    settings = Experiment.model_validate_json(experiment)
    index = settings.institutions.taking_part[node]
    own = Path(folder) / f"{index:04d}"
    return simulated_institution(settings, index, own, ledgers=Path(ledgers) if ledgers else None)


def _evaluate(
    weights: Mapping[str, Any], config: ConfigRecord, context: Context
) -> Mapping[str, Any]:
    """Scores on the institution's private test data, if its policy releases any.

    The message may name the student; else the experiment does, which whoever simulates the
    institution sent.
    """
    shape = cast(Shape, tuple(cast(list[int], config["shape"])))
    names = cast(list[str], config["classes"])
    told = Experiment.model_validate_json(str(config["experiment"])).student.model
    model = str(config.get("model") or told)
    institution = _institution_of(config, context)
    if columns := institution.card.columns:
        student = build_table_network(model, len(names), columns, seed=0, imports=True)
    else:
        student = build_network(model, len(names), shape, seed=0, imports=True)
    student.load_state_dict(weights)
    score = institution.score(student, names)
    return {} if isinstance(score, Refusal) else released_score(score)


app = institution_app(_institution_of, _evaluate)
