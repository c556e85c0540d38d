"""The supervised attack agrees with theory, overfits nothing, and its scores are exported whole."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedkd.errors import SettingsError
from fedkd.privacy.membership_inference import area, auc
from fedkd.privacy.score_export import export_scores
from fedkd.privacy.supervised_membership import (
    MIN_SAMPLES,
    attack_releases,
    control,
    feature_statistics,
    gradient_statistics,
    logit_statistics,
    number_statistics,
    supervised_scores,
)

HALF = np.repeat([True, False], 1500)
ONE = np.zeros(len(HALF), dtype=np.int64)


def shifted(distance: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(HALF), 1)) + distance * HALF[:, None]


def told(scores: np.ndarray, is_member: np.ndarray) -> float:
    scored = ~np.isnan(scores)
    assert scored.sum() == pytest.approx(len(scores) / 2, abs=1)
    return area(scores[is_member & scored], scores[~is_member & scored])


@pytest.mark.parametrize("distance", [0.0, 0.5, -1.5])
def test_learned_attack_has_the_auc_of_shifted_gaussians(distance: float) -> None:
    """Phi(|d| / sqrt 2), whichever side members are on."""
    scores = supervised_scores(shifted(distance), HALF, ONE, np.random.default_rng(1))
    expected = stats.norm.cdf(abs(distance) / np.sqrt(2))
    assert told(scores, HALF) == pytest.approx(expected, abs=0.04)


def test_noise_in_many_columns_is_not_learned_by_heart() -> None:
    noise = np.random.default_rng(2).normal(size=(400, 380))
    is_member = np.repeat([True, False], 200)
    scores = supervised_scores(noise, is_member, np.zeros(400, int), np.random.default_rng(3))
    assert abs(told(scores, is_member) - 0.5) < 0.1


def test_classes_in_small_halves_are_no_evidence() -> None:
    """Where halves ignored classes, one half's classes told what the other lacked."""
    rng = np.random.default_rng(7)
    groups = np.tile(np.arange(10).repeat(5), 2)
    is_member = np.repeat([True, False], 50)
    seen = []
    for _ in range(20):
        shown = np.eye(10)[groups] + 0.1 * rng.normal(size=(100, 10))
        scores = supervised_scores(shown, is_member, groups, rng)
        seen.append(told(scores, is_member))
    assert np.mean(seen) == pytest.approx(0.5, abs=0.06)


def test_intervals_hold_where_nothing_is_to_be_found() -> None:
    rng = np.random.default_rng(8)
    is_member, groups = np.repeat([True, False], 100), np.zeros(200, dtype=np.int64)
    missed = 0
    for _ in range(100):
        scores = supervised_scores(rng.normal(size=(200, 30)), is_member, groups, rng)
        scored = ~np.isnan(scores)
        found = auc(scores[is_member & scored], scores[~is_member & scored])
        missed += not found.low <= 0.5 <= found.high
    assert missed <= 10


def test_gain_is_told_of_what_adds_something() -> None:
    released = {"logits": shifted(0.3), "features": shifted(1.0, 4), "bn_gap": shifted(0.0, 5)}
    found = {
        each.reads: each
        for each in attack_releases(
            released, released["logits"][:, 0], HALF, ONE, np.random.default_rng(0)
        )
        if each.attack == "learned"
    }
    assert set(found) == {
        ("logits",),
        ("logits", "features"),
        ("logits", "bn_gap"),
        ("logits", "features", "bn_gap"),
    }
    assert found["logits",].added is None
    assert found["logits", "features"].added.low > 0.1
    nothing = found["logits", "bn_gap"].added
    assert nothing.low <= 0.005
    assert nothing.high < 0.03


def test_control_sees_that_the_samples_themselves_differ() -> None:
    rng = np.random.default_rng(6)
    same = rng.random((400, 1, 4, 4))
    is_member = np.repeat([True, False], 200)
    assert control(same, is_member, np.zeros(400, int), rng).auc.low < 0.5
    brighter = same + 0.5 * is_member[:, None, None, None]
    assert control(brighter, is_member, np.zeros(400, int), rng).auc.low > 0.8


def test_logit_statistics_are_those_of_torch() -> None:
    logits, labels = torch.randn(20, 5, dtype=torch.float64), torch.arange(20) % 5
    found = logit_statistics(logits.numpy(), labels.numpy())
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    p = torch.exp(-loss)
    np.testing.assert_allclose(found[:, 0], torch.logit(p), atol=1e-9)
    np.testing.assert_allclose(found[:, 2], entropy, atol=1e-9)
    np.testing.assert_allclose(found[:, 3], loss, atol=1e-9)


def test_errors_features_and_gradients_by_hand() -> None:
    numbers = number_statistics(np.array([[0.5, 0.1]]), np.array([[0.2, 0.4]]))
    np.testing.assert_allclose(numbers, [[0.3, 0.3, 0.3, -0.3]])
    features = np.array([[0.0, 0.0], [0.0, 2.0], [3.0, 1.0], [3.0, 1.0]])
    found = feature_statistics(features, np.array([0, 0, 4, 4]))
    np.testing.assert_allclose(found[0], [0.0, 1.0, np.sqrt(10) - 1])
    np.testing.assert_allclose(found[2], [np.sqrt(10), 0.0, 3.0])
    gradients = gradient_statistics(np.array([[[3.0, -4.0]]]))
    np.testing.assert_allclose(np.exp(gradients), [[7.0, 5.0, 4.0]])


def test_too_few_samples_are_refused() -> None:
    is_member = np.array([True] * 50 + [False] * (MIN_SAMPLES - 1))
    with pytest.raises(SettingsError, match="bring more"):
        supervised_scores(
            np.zeros((len(is_member), 1)), is_member, is_member, np.random.default_rng(0)
        )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20))
def test_exported_scores_are_read_again(tmp_path_factory: pytest.TempPathFactory, values) -> None:
    folder: Path = tmp_path_factory.mktemp("scores")
    columns = {"member": np.arange(len(values)) % 2, "logits:learned": np.array(values)}
    export_scores(folder / "s.npz", columns)
    export_scores(folder / "s.csv", columns)
    with np.load(folder / "s.npz") as read:
        np.testing.assert_array_equal(read["logits:learned"], values)
    with (folder / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["logits:learned"]) for row in rows] == values
    assert [int(row["member"]) for row in rows] == columns["member"].tolist()
    assert (folder / "s.csv").stat().st_mode & 0o077 == 0
    with pytest.raises(SettingsError, match="not there yet"):
        export_scores(folder / "s.csv", columns)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\.npz or \.csv"):
        export_scores(tmp_path / "s.pickle", {"member": np.zeros(1)})
