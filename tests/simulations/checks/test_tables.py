"""The check of tables: bars are what they say, controls are poor, and a small case runs."""

import json
from pathlib import Path

import pytest
import torch

from fedkd.client.vault.training.settings import SupervisedSettings
from fedkd.client.vault.training.supervised_tables import train_table_teacher
from fedkd.data.datasets import open_data
from fedkd.errors import SettingsError
from fedkd.procedural import build_prior
from fedkd.protocol import Signal, decode_rows
from fedkd.simulations.checks import tables
from fedkd.simulations.checks.tables import (
    CASES,
    CONTROLS,
    DRAWS,
    Case,
    above_control,
    least,
    main,
    most_of_control,
    near_ensemble,
    share_of_teachers,
)

GOOD = [{"student.accuracy": 0.90, "ensemble.accuracy": 0.92, "teachers.accuracy": 1.0}] * 2
POOR = [{"student.accuracy": 0.50, "ensemble.accuracy": 0.92, "teachers.accuracy": 1.0}] * 2


def test_a_margin_is_by_how_much_a_bar_is_reached() -> None:
    assert least("student.accuracy", 0.8).margin(GOOD, POOR) == pytest.approx(0.1)
    assert least("student.accuracy", 0.8).margin(POOR, GOOD) == pytest.approx(-0.3)
    assert most_of_control("student.accuracy", 0.6).margin(GOOD, POOR) == pytest.approx(0.1)
    assert near_ensemble(3).margin(GOOD, POOR) == pytest.approx(0.01)
    assert near_ensemble(1).margin(GOOD, POOR) == pytest.approx(-0.01)
    assert share_of_teachers("accuracy", 0.85).margin(GOOD, POOR) == pytest.approx(0.05)


def test_a_difference_counts_by_its_standard_error() -> None:
    runs, control = ([{"r": value} for value in values] for values in ((1.0, 1.2), (0.9, 0.9)))
    # Differences 0.1 and 0.3: mean 0.2, standard error 0.1414 / sqrt(2) = 0.1.
    assert above_control("r").margin(runs, control) == pytest.approx(0.1)
    assert above_control("r").margin(runs[:1], control[:1]) < 0  # one seed says nothing


def test_ranges_ten_times_too_wide_hold_the_same_patients() -> None:
    plain, wide = open_data("table:diabetes"), open_data(f"{CONTROLS}:stretched_diabetes")
    age, wide_age = plain.columns[0], wide.columns[0]
    assert wide_age.high - wide_age.low == pytest.approx(10 * (age.high - age.low))
    assert wide.columns[1] == plain.columns[1]
    rows = decode_rows(plain.test_images, plain.columns)
    assert torch.allclose(rows, decode_rows(wide.test_images, wide.columns), atol=1e-2)
    numeric = [place for place, column in enumerate(wide.columns) if not column.levels]
    assert float(wide.test_images[..., numeric].sub(0.5).abs().max()) <= 0.05 + 1e-6


@pytest.mark.parametrize(("name", "most"), [("constant_rows", 1), ("action_prototypes_0", 2)])
def test_controls_draw_about_one_row_or_two(name: str, most: int) -> None:
    prior = build_prior(f"{CONTROLS}:{name}", imports=True)
    rows = prior.draw(200, (1, 1, 4), torch.Generator().manual_seed(0)).flatten(1).float() / 255
    centres = rows[:most]
    nearest = torch.cdist(rows, centres).min(1).values
    assert float(nearest.max()) < 0.25
    assert float(torch.pdist(rows).max()) < 0.3 or most == 2


def test_prototypes_have_one_row_for_each_action_of_the_teachers() -> None:
    data = open_data("fedkd.simulations.examiners.cartpole:recorded_episodes")
    settings = SupervisedSettings(10, 32, 1e-2, 0.0)
    teacher = train_table_teacher(
        "table-tanh",
        *(data.train_images, data.train_labels, data.classes, data.columns, data.numbers),
        *(settings, 0),
    )
    for draw in range(DRAWS):
        prior = build_prior(f"{CONTROLS}:action_prototypes_{draw}", imports=True)
        rows = prior.centres()[:, None, None]
        logits = teacher.ask(rows, frozenset({Signal.LOGITS}))[Signal.LOGITS]
        assert logits.argmax(1).tolist() == [0, 1]


def test_a_small_case_runs_with_its_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wine = next(case for case in CASES if case.experiment == "wine")
    small = Case(wine.experiment, wine.control, wine.settings, wine.shown, wine.bars[-1:])
    monkeypatch.setattr(tables, "CASES", (small,))
    sets = ["--set", "questions.budget=200", "--set", "student.steps=60"]
    file = tmp_path / "figures.json"
    assert main(["wine", "--seeds", "3", "--json", str(file), *sets]) == 0
    figures = json.loads(file.read_text())["wine"]
    assert 0 < figures["runs"][0]["student.accuracy"] <= 1
    assert figures["runs"][0]["majority"] == pytest.approx(17 / 44)
    assert "constant rows" in capsys.readouterr().out
    with pytest.raises(SettingsError, match="no check of 'vine'"):
        main(["vine"])


def test_every_case_is_an_experiment_that_ships() -> None:
    from fedkd.experiment import load_experiment

    for case in CASES:
        load_experiment(case.experiment)
        load_experiment(case.of or case.experiment, case.settings)
