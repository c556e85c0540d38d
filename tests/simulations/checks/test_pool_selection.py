"""The check of a choice among public samples, on a small pool of digits and noise, end to end."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedkd.data.datasets import open_data
from fedkd.errors import DataError
from fedkd.experiment import load_experiment
from fedkd.server.report.records.loop_events import loop_events
from fedkd.simulations.checks.pool_selection import ROWS, WANTED, Chosen, chosen_in, row, table
from fedkd.simulations.run import run

SMALL = (
    "institutions.count=2",
    "institutions.epochs=3",
    "institutions.partition=iid",
    "student.steps=80",
    "questions.budget=100",
    "questions.batch=10",
    'images.public=["digits.npz","noise.npz"]',
    "images.public_counts=[100,200]",
)


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """Settings of a run whose pool is one third digits."""
    digits = open_data("digits").train_images[:100, 0].numpy()
    noise = np.random.default_rng(0).integers(0, 256, (200, 8, 8), np.uint8)
    np.savez(tmp_path / "digits.npz", images=digits)
    np.savez(tmp_path / "noise.npz", images=noise)
    return [*SMALL, f"images.public_root={json.dumps(str(tmp_path))}"]


def test_prototypes_find_what_institutions_agree_about(
    overrides: list[str], tmp_path: Path
) -> None:
    (found,) = row("odsd", [0], overrides, tmp_path / "runs")
    (control,) = row("odsd, choice at random", [0], overrides, tmp_path / "runs")
    assert sum(found.asked.values()) == sum(control.asked.values()) == 100
    assert found.share("digits.npz") > control.share("digits.npz") + 0.2
    assert "odsd " in table("odsd", [found])
    (again,) = row("odsd", [0], overrides, tmp_path / "runs")  # it is there already
    assert again == found


def test_a_run_of_kd3_is_replayed_event_by_event(overrides: list[str], tmp_path: Path) -> None:
    experiment = load_experiment("digits-kd3", overrides)
    first, second = tmp_path / "first", tmp_path / "second"
    run(experiment, "local", first, record=True)
    run(experiment, "local", second, replay=first)
    assert loop_events(first) == loop_events(second)
    assert chosen_in(first) == chosen_in(second)


@pytest.mark.parametrize("name", ["odsd, all of it MNIST", "kd3, all of it MNIST"])
def test_a_pool_without_junk_counts_what_was_asked(name: str, tmp_path: Path) -> None:
    folder = tmp_path / f"{name.replace(', ', '-').replace(' ', '-')}-0"  # as if it had been run
    folder.mkdir()
    experiment, own = ROWS[name]
    result = {
        "config": load_experiment(experiment, [*own, "seed=0"]).model_dump(mode="json"),
        "student": {"accuracy": 0.5},
        "teachers": [{"samples_asked": 1000}] * 2,
    }
    (folder / "result.json").write_text(json.dumps(result))
    (found,) = row(name, [0], [], tmp_path)
    assert found == Chosen(0.5, {WANTED: 1000})
    assert found.share(WANTED) == 1


def test_a_run_without_such_a_pool_is_told(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "events.jsonl").write_text('{"kind": "asked"}\n')
    with pytest.raises(DataError, match="chose among no data sets"):
        chosen_in(tmp_path)
    assert Chosen(0.5, {"a": 1, "b": 3}).share("a") == 0.25
