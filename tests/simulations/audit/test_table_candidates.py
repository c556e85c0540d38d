"""Candidates for membership that are rows of a table: they reach institutions as they are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment
from fedkd.simulations.audit.shadow_federations import (
    draw_candidates,
    open_pool,
    train_federations,
)


def test_a_pool_of_rows_is_read_as_it_was_written(tmp_path: Path) -> None:
    experiment = load_experiment("breast-cancer")
    drawn = draw_candidates(experiment, 30, 0.0, np.random.default_rng(0))
    drawn.save(tmp_path)
    pool = open_pool(str(tmp_path))
    assert torch.equal(pool.train_images, drawn.candidates)
    assert torch.equal(pool.test_labels, drawn.truth)
    assert (len(pool.columns), pool.columns) == (30, drawn.columns)
    assert pool.class_names == ("malignant", "benign")


def test_answers_and_student_have_the_classes_in_one_order() -> None:
    # Not that of the alphabet, in which the student has them.
    settings = ['institutions.models=["sklearn:RandomForest"]', "institutions.count=2"]
    settings += ["questions.budget=300", "student.steps=150"]
    experiment = load_experiment("breast-cancer", settings)
    rng = np.random.default_rng(0)
    data = draw_candidates(experiment, 200, 0.0, rng)
    (federation,) = train_federations(experiment, data, 1, rng)
    population = slice(len(data.labels), None)
    for logits in (*federation.answers, federation.student):
        assert float((logits[population].argmax(1) == data.truth).float().mean()) > 0.7


def test_numbers_have_no_such_audit() -> None:
    with pytest.raises(SettingsError, match="these institutions predict numbers"):
        draw_candidates(load_experiment("diabetes"), 30, 0.0, np.random.default_rng(0))
