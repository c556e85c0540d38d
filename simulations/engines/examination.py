"""Examine policies: student, ensemble and teachers by the mean return of the same episodes.

Where an experiment names an examiner, classes are actions. Only a simulation may do this: the
coordinator has no environment, and learns nothing of the returns.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.client.institution import institution_name, simulated_assets
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.errors import SettingsError
from fedkd.evaluation import predict_logits
from fedkd.experiment import Experiment
from fedkd.methods import make
from fedkd.protocol import Card, Column, LabelSpaces, Signal, class_names_of, encode_rows
from fedkd.server.run.run_recorder import Evaluation
from fedkd.simulations.examiners import Act, Examiner, build_examiner

Logits: TypeAlias = Callable[[Tensor], Tensor]
"""Rows (E, 1, 1, D) in [0, 1] -> (E, K)."""
LOGITS = frozenset({Signal.LOGITS})


def policy_of(
    logits: Logits, names: Sequence[str], columns: Sequence[Column], actions: Sequence[str]
) -> Act:
    """The policy that takes the likeliest action.

    Args:
        logits: of a model.
        names: of its K classes.
        columns: (D,) by which observations become rows.
        actions: the examiner's names, in its order.
    """
    place = np.array([actions.index(name) for name in names], np.int64)

    def act(observations: NDArray[np.float64]) -> NDArray[np.int64]:
        rows = encode_rows(torch.from_numpy(observations), columns)
        chosen: NDArray[np.int64] = place[logits(rows).argmax(1).numpy()]
        return chosen

    return act


def check_examiner(name: str, cards: Sequence[Card]) -> Examiner:
    """The examiner of that name, where it can try the policies of these institutions.

    Raises:
        SettingsError: there is none, classes are not its actions, or teachers read no table.
    """
    examiner = build_examiner(name)
    if not cards[0].columns or not set(LabelSpaces.of(cards).names) <= set(examiner.actions):
        raise SettingsError(
            f"examiner {name!r} tries policies with the actions {', '.join(examiner.actions)}; "
            "expected rows of a table, and these as classes"
        )
    return examiner


def examine(
    experiment: Experiment,
    vaults: Path,
    cards: Sequence[Card],
    student: nn.Module,
    evaluation: Evaluation,
) -> Evaluation:
    """``evaluation`` with ``mean_return`` beside the other scores, where there is an examiner.

    Raises:
        SettingsError: classes that are not the examiner's actions, or teachers that read no table.
    """
    if experiment.examiner is None:
        return evaluation
    examiner, columns = check_examiner(experiment.examiner, cards), cards[0].columns
    labels = LabelSpaces.of(cards)

    def score(logits: Logits, names: Sequence[str]) -> float:
        return examiner.mean_return(policy_of(logits, names, columns, examiner.actions))

    teachers = _teachers(experiment, vaults, cards)
    method = make(experiment.method.name, experiment.method.arguments)
    questions = experiment.questions
    fusion = build_fusion(method.rule_for(questions.rule), cards, questions.prior)

    def fused(rows: Tensor) -> Tensor:
        answers = {name: {Signal.LOGITS: ask(rows)} for name, ask in teachers.items()}
        return fusion(answers)[Signal.LOGITS]

    own = {card.name: score(teachers[card.name], class_names_of(card)) for card in cards}
    return replace(
        evaluation,
        student={
            **evaluation.student,
            "mean_return": score(lambda rows: predict_logits(student, rows), labels.names),
        },
        ensemble={**evaluation.ensemble, "mean_return": score(fused, labels.names)},
        teachers={
            name: {**evaluation.teachers.get(name, {}), "mean_return": mean}
            for name, mean in own.items()
        },
    )


def _teachers(experiment: Experiment, vaults: Path, cards: Sequence[Card]) -> dict[str, Logits]:
    """The teachers of these institutions, from their vaults."""
    count = experiment.institutions.count
    places = {institution_name(index, count): index for index in range(count)}

    def asked(index: int) -> Logits:
        vault = TrainedVault(simulated_assets(experiment, index), vaults / f"{index:04d}")
        teacher = vault.teacher
        return lambda rows: teacher.ask(rows, LOGITS)[Signal.LOGITS]

    return {card.name: asked(places.get(card.name, at)) for at, card in enumerate(cards)}
