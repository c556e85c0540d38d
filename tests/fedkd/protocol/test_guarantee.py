"""A promise of privacy goes from the training to the report, and no teacher goes without it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedkd.client.vault.training.dp_sgd
from fedkd.client.institution import Institution, simulated_institution
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.training.settings import DpSgdSettings, SupervisedSettings
from fedkd.client.vault.vault import Vault
from fedkd.client.vault.vault_settings import Assets
from fedkd.errors import DataError, SettingsError
from fedkd.experiment import load_experiment
from fedkd.privacy import Policy
from fedkd.protocol import Guarantee, Signal
from fedkd.server.report.formatting import epsilon_delta
from fedkd.simulations.run import run

PRIVATE = DpSgdSettings(epsilon=3.0, epochs=1, sampling_rate=0.1, accountant="rdp")
ASSETS = Assets(count=5, model="scattering", dp_training=PRIVATE)
SHORT = (
    "privacy.epochs=1",
    "privacy.sampling_rate=0.1",
    "privacy.accountant=rdp",
    "institutions.count=2",
    "student.steps=4",
    "questions.budget=64",
)


def said(vault: Vault) -> torch.Tensor:
    images = torch.zeros(1, 1, 8, 8)
    return vault.teacher.ask(images, frozenset({Signal.LOGITS}))[Signal.LOGITS]


def test_the_promise_is_kept_with_the_teacher(tmp_path: Path) -> None:
    first = TrainedVault(ASSETS, tmp_path)
    promised = first.guarantee
    assert promised is not None
    assert 2.9 < promised.epsilon <= 3
    assert promised.delta == 1e-5
    again = TrainedVault(ASSETS, tmp_path)
    assert again.guarantee == promised
    assert torch.equal(said(first), said(again)), "it was trained twice, which would be paid twice"
    assert TrainedVault(Assets(training=SupervisedSettings(epochs=1))).guarantee is None


def test_another_promise_or_none_trains_anew(tmp_path: Path) -> None:
    first = TrainedVault(ASSETS, tmp_path).guarantee
    more = replace(ASSETS, dp_training=replace(PRIVATE, epsilon=8.0))
    assert TrainedVault(more, tmp_path).guarantee != first
    none = replace(ASSETS, dp_training=None, training=SupervisedSettings(epochs=1))
    assert TrainedVault(none, tmp_path).guarantee is None


@pytest.mark.parametrize("where", ["training", "note", "missing"])
def test_a_teacher_above_its_target_is_not_served(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "training":
        # Less noise than was found necessary; the accountant saw what was really added.
        calibrated_noise_multiplier = fedkd.client.vault.training.dp_sgd.calibrated_noise_multiplier
        monkeypatch.setattr(
            fedkd.client.vault.training.dp_sgd,
            "calibrated_noise_multiplier",
            lambda *found: 0.9 * calibrated_noise_multiplier(*found),
        )
    else:
        assert TrainedVault(ASSETS, tmp_path).guarantee is not None
        path = tmp_path / "teacher.json"
        note = json.loads(path.read_text())
        note["guarantee"] = note["guarantee"] | {"epsilon": 3.1} if where == "note" else None
        path.write_text(json.dumps(note))
    vault = TrainedVault(ASSETS, tmp_path)
    for _ in range(2):
        with pytest.raises(DataError, match="not served"):
            _ = vault.teacher


@pytest.mark.parametrize("spoilt", [{"epsilon": -1.0}, {"secret": 1}, 5, "secret"])
def test_a_note_that_makes_no_sense_is_named_and_not_quoted(tmp_path: Path, spoilt: Any) -> None:
    assert TrainedVault(ASSETS, tmp_path).guarantee is not None
    path = tmp_path / "teacher.json"
    note = json.loads(path.read_text())
    note["guarantee"] = note["guarantee"] | spoilt if isinstance(spoilt, dict) else spoilt
    path.write_text(json.dumps(note))
    with pytest.raises(DataError, match="train anew") as caught:
        _ = TrainedVault(ASSETS, tmp_path).guarantee
    assert "secret" not in str(caught.value)


def test_the_card_tells_the_promise_and_no_counts(tmp_path: Path) -> None:
    vault = TrainedVault(ASSETS, tmp_path)
    card = Institution("north", vault, Policy(mode="dp-teacher")).card
    assert card.guarantee == vault.guarantee
    assert card.class_counts is None
    for plain in ({"class_counts": True}, {"scores": True}):
        with pytest.raises(SettingsError, match="without noise"):
            Policy(mode="dp-teacher", **plain)
    told = Institution("north", vault, Policy(class_counts=True)).card
    assert told.guarantee is None, "beside what no noise covers nothing is promised"


def test_a_promise_depends_on_the_settings_alone() -> None:
    shares = (
        Assets(index=i, count=n, model="scattering", dp_training=PRIVATE)
        for i, n in ((0, 1), (3, 9))
    )
    one, other = (TrainedVault(share) for share in shares)
    assert sum(one.class_counts) > 5 * sum(other.class_counts)
    assert one.guarantee == other.guarantee


def test_an_experiment_asks_for_privacy_in_its_own_section() -> None:
    assert (
        simulated_institution(
            load_experiment("digits", ["institutions.epochs=1"]), 0, None
        ).card.guarantee
        is None
    )
    card = simulated_institution(
        load_experiment("digits-dp", [*SHORT, "privacy.epsilon=2"]), 0, None
    ).card
    assert card.guarantee is not None
    assert 1.9 < card.guarantee.epsilon <= 2
    wished = [
        "institutions.models=['scattering']",
        "policy.class_counts=false",
        "policy.scores=false",
    ]
    own = simulated_institution(
        load_experiment("digits", [*SHORT, *wished, "privacy.epsilon=2"]), 0, None
    ).card
    assert own.guarantee == card.guarantee
    with pytest.raises(SettingsError, match=r"privacy\.epsilon"):
        load_experiment("digits", ["privacy.epsilon=0"])


def test_the_report_says_what_was_promised(tmp_path: Path) -> None:
    result = run(load_experiment("digits-dp", SHORT), "local", tmp_path / "run")
    teachers = result["teachers"]
    assert [7.9 < t["epsilon"] <= 8 and t["delta"] == 1e-5 for t in teachers] == [True, True]
    assert {t["mechanism"] for t in teachers} == {"DP-SGD, one training image (add or remove)"}
    for told in teachers:
        assert Guarantee(**told["guarantee"]).epsilon == told["epsilon"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"DP-SGD, {teachers[0]['guarantee']['steps']} noisy steps" in page
    assert "<dt>What is protected</dt><dd>one training image</dd>" in page
    assert epsilon_delta(teachers[0]["epsilon"], 1e-5) in page
    other = run(
        load_experiment("digits-dp", [*SHORT, "privacy.epsilon=2"]), "local", tmp_path / "other"
    )
    assert other["teachers"][0]["epsilon"] <= 2, "a teacher of another promise was found"
    assert len([*(tmp_path / ".institutions").iterdir()]) == 2, "one would replace the other"


def test_it_reads_as_one_line() -> None:
    promise = Guarantee(3.0, 1e-5, 600, 1.9, 0.05, 1.0, unit="one patient")
    assert str(promise) == "DP-SGD, one patient (add or remove)"
