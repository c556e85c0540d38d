"""The check of hostile institutions: lies are told, and what is counted is what was lost."""

from pathlib import Path

import pytest
import torch

from fedkd.client.institution import simulated_institution
from fedkd.experiment import load_experiment
from fedkd.protocol import Ask, Reply, Signal
from fedkd.simulations.checks.byzantine import (
    ATTACKS,
    CLAIM,
    LyingInstitution,
    Setting,
    liars_of,
    summary,
)

SMALL = [
    "institutions.count=4",
    "institutions.epochs=8",
    "questions.budget=1920",
    "student.steps=150",
]


def test_liars_are_evenly_apart_and_follow_the_seed() -> None:
    assert liars_of(3, 5, 1) == (3,)
    assert liars_of(4, 10, 2) == (4, 9)
    assert liars_of(7, 10, 2) == (2, 7)


def test_summary_counts_means_over_seeds_and_the_worst_attack() -> None:
    runs = [
        {
            "honest": {"auto": 97.0, "log_linear_pool": 97.5},
            "without": {"auto": 96.0},
            "inverted": {"auto": 90.0 + seed},
            "random": {"auto": 96.0},
        }
        for seed in (0, 2)
    ]
    found = summary(runs)
    assert found["drops"] == {"inverted": 5.0, "random": 0.0}
    assert found["worst_drop"] == 5.0
    assert found["worst_drop_of_one_seed"] == 6.0
    assert found["honest_loss"] == 0.5


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    experiment = load_experiment("digits", SMALL)
    return Setting(experiment, tmp_path_factory.mktemp("vaults"), (1,))


@pytest.mark.parametrize("name", ATTACKS)
def test_a_liar_claims_everything_and_says_what_the_attack_says(
    setting: Setting, name: str
) -> None:
    images = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8)
    vault: Path = setting.vaults / "0001"
    honest = simulated_institution(setting.experiment, 1, vault)
    told = honest.answer(Ask(images))
    liar = LyingInstitution(
        simulated_institution(setting.experiment, 1, vault), ATTACKS[name], budget=96
    )
    claims = tuple(CLAIM * (name != "one_class" or c == 3) for c in range(10))
    assert liar.card.class_counts == claims
    said = [liar.answer(Ask(images)) for _ in range(2)]
    assert isinstance(told, Reply)
    truth = told.signals[Signal.LOGITS].float()
    lies = [r.signals[Signal.LOGITS].float() for r in said if isinstance(r, Reply)]
    assert torch.allclose(lies[0], truth) == (name in ("counts", "sleeper"))
    assert torch.allclose(lies[1], truth) == (name == "counts")


def test_a_student_that_trusts_everybody_loses_and_one_by_auto_does_not(setting: Setting) -> None:
    trusting, wary = (setting.accuracy(rule, "random") for rule in ("log_linear_pool", "auto"))
    assert wary > trusting + 8
