"""``fedkd-client audit``: finds what is memorised, accuses no noise, charges and sends nothing."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import tomli_w
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from fedkd.client.cli import main
from fedkd.client.config.owner_config import load_owner_config
from fedkd.client.institution import owner_institution
from fedkd.client.institution.membership_audit import AuditedSamples, audit_release, audit_student
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.data.datasets import open_data
from fedkd.errors import SettingsError
from fedkd.models import build_network
from fedkd.protocol import Signal
from fedkd.server.report.records.student_export import save_student

TRAINED: dict[str, Any] = {
    "name": "north",
    "teacher": {"model": "sklearn:RandomForestClassifier"},
    "data": {"source": "digits", "count": 4},
    "policy": {"signals": ["logits"], "samples": 50},
}


def owner(folder: Path, **changes: Any) -> Path:
    tables = {
        name: dict(value) if isinstance(value, dict) else value for name, value in TRAINED.items()
    }
    for name, change in changes.items():
        tables[name] = change
    path = folder / "owner.toml"
    path.write_text(tomli_w.dumps({name: own for name, own in tables.items() if own is not None}))
    return path


def typed(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fedkd-client", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_memorised_samples_are_found_and_nothing_is_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = owner(tmp_path)
    assert typed(monkeypatch, "audit", path, "--scores", tmp_path / "scores.npz") == 0
    text = capsys.readouterr().out
    assert "logits" in text
    assert "samples alone" in text
    assert "Nothing was sent or charged" in text
    with np.load(tmp_path / "scores.npz") as scores:
        member, margins = scores["member"], scores["logits:threshold"]
    assert margins[member == 1].mean() > margins[member == 0].mean()
    assert typed(monkeypatch, "ledger", "show", path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == []


def test_labels_alone_tell_less_than_logits(tmp_path: Path) -> None:
    exact = audit_release(load_owner_config(owner(tmp_path)), AuditedSamples())
    policy = {"signals": ["logits"], "samples": 50, "labels": True}
    labels = audit_release(load_owner_config(owner(tmp_path, policy=policy)), AuditedSamples())
    assert exact.strongest.auc.low > 0.7
    assert labels.strongest.auc.value < exact.strongest.auc.low
    assert not exact.biased


def test_noise_hides_members_and_takes_nothing_of_the_budget(tmp_path: Path) -> None:
    policy = {
        "signals": ["logits"],
        "samples": 50,
        "mode": "local-dp",
        "budget": {"epsilon": 2.0},
        "clipping": 1.0,
    }
    config = load_owner_config(owner(tmp_path, policy=policy))
    found = audit_release(config, AuditedSamples())
    assert found.strongest.auc.low < 0.5
    # Far more than the 50 samples of the policy were asked, and none of them is charged.
    assert len(found.is_member) > 100
    assert owner_institution(config).totals["asked"] == 0


def test_every_signal_and_pull_back_are_attacked(tmp_path: Path) -> None:
    teacher = {"model": "cnn", "epochs": 1}
    policy = {"signals": [*map(str, Signal)], "samples": 50, "pull_back": True}
    path = owner(tmp_path, teacher=teacher, policy=policy)
    found = audit_release(load_owner_config(path), AuditedSamples(count=40))
    read = {name for each in found.findings for name in each.reads}
    assert read == {*map(str, Signal), "pull-back"}
    withheld = load_owner_config(owner(tmp_path, teacher=teacher))
    assert {each.reads for each in audit_release(withheld, AuditedSamples(count=40)).findings} == {
        ("logits",)
    }
    more = audit_release(withheld, AuditedSamples(count=40), all_signals=True)
    assert {name for each in more.findings for name in each.reads} == read


def test_a_private_training_that_the_budget_does_not_cover_is_not_begun_for_an_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = owner(
        tmp_path,
        teacher={"model": "scattering", "private": {"epsilon": 3.0, "epochs": 1}},
        policy={**TRAINED["policy"], "mode": "dp-teacher", "budget": {"epsilon": 1.0}},
    )
    config, few = load_owner_config(path), AuditedSamples(count=20)
    begun: list[object] = []
    monkeypatch.setattr(TrainedVault, "_train", begun.append)
    for all_signals in (False, True):
        with pytest.raises(SettingsError, match=r"is more than policy\.budget, "):
            audit_release(config, few, all_signals=all_signals)
    assert not begun


@pytest.fixture
def brought(tmp_path: Path) -> Path:
    """Nearest neighbours, which know 300 samples with random labels by heart; and all as files."""
    x, _ = load_digits(return_X_y=True)
    y = np.random.default_rng(0).integers(0, 10, len(x))
    x = np.round(x * 255 / 16) / 255
    skops.io.dump(
        KNeighborsClassifier(5, weights="distance").fit(x[:300], y[:300]), tmp_path / "m.skops"
    )
    for name, part in (("members", slice(0, 300)), ("others", slice(200, 600))):
        images = (x[part] * 255).astype(np.uint8).reshape(-1, 8, 8)
        half = len(images) // 2
        np.savez(
            tmp_path / f"{name}.npz",
            train_images=images[:half],
            train_labels=y[part][:half],
            test_images=images[half:],
            test_labels=y[part][half:],
        )
    teacher = {
        "source": "skops:m.skops",
        "shape": [1, 8, 8],
        "classes": 10,
        "trusted_types": [
            "sklearn.metrics._dist_metrics.EuclideanDistance64",
            "sklearn.neighbors._kd_tree.KDTree",
        ],
    }
    return owner(tmp_path, teacher=teacher, data=None)


def test_brought_teacher_is_audited_with_files_of_members_and_others(
    brought: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("audit", brought, "--members", "npz:members.npz", "--others", "npz:others.npz")
    assert typed(monkeypatch, *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"] == 100
    assert max(each["auc"]["low"] for each in found["attacks"]) > 0.8


def test_brought_teacher_without_samples_is_refused(
    brought: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, "audit", brought) == 2
    assert "give --members SOURCE" in capsys.readouterr().err
    assert typed(monkeypatch, "audit", brought, "--scores", "scores.txt") == 2
    assert ".npz or .csv" in capsys.readouterr().err


def test_student_that_learned_members_by_heart_is_found(tmp_path: Path) -> None:
    data = open_data("digits")
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 10, 100))
    np.savez(
        tmp_path / "mine.npz",
        train_images=data.train_images[:100, 0].numpy(),
        train_labels=labels.numpy(),
        test_images=data.test_images[:, 0].numpy(),
        test_labels=np.random.default_rng(1).integers(0, 10, len(data.test_labels)),
    )
    config = load_owner_config(owner(tmp_path, data={"source": "npz:mine.npz"}))
    torch.manual_seed(0)
    student = build_network("mlp", 10, (1, 8, 8), seed=0)
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        logits = student(data.train_images[:100].float() / 255)
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    notes = {"student": "mlp", "classes": "10"}
    path = save_student(student.eval(), tmp_path, (1, 8, 8), notes)
    found = audit_student(config, path, AuditedSamples())
    assert found.strongest.auc.low > 0.6
