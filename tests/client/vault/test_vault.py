"""A vault opens its own share, keeps its teacher to itself, and says nothing of either."""

import json
import logging
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedkd.client.vault.local_data
from fedkd.client.vault.disk_model_cache import cache_metadata
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.training.settings import DpSgdSettings, SupervisedSettings
from fedkd.client.vault.vault import Vault
from fedkd.client.vault.vault_settings import Assets
from fedkd.core.augmentation import Augmentation
from fedkd.data.datasets import open_data
from fedkd.errors import DataError, SettingsError
from fedkd.models import ModuleTeacher, build_network
from fedkd.protocol import Signal

SHORT = SupervisedSettings(epochs=2)
ASSETS = Assets(count=5, partition="dirichlet", training=SHORT)
DIGITS = open_data("digits")


class Watched:
    """Counts the epochs that were trained."""

    def __init__(self) -> None:
        self.epochs = 0

    def __call__(self, _done: int, _total: int) -> None:
        self.epochs += 1


def said(vault: Vault) -> torch.Tensor:
    return vault.teacher.ask(DIGITS.test_images, frozenset({Signal.LOGITS}))[Signal.LOGITS]


class Constant(nn.Module):
    """Says class 3 of everything."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.eye(10)[torch.full((len(x),), 3)]


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    vault = TrainedVault(Assets(data="npz:none.npz", root=str(tmp_path)))
    with pytest.raises(DataError, match=r"none\.npz"):
        _ = vault.teacher


def test_shares_together_are_the_data() -> None:
    vaults = [TrainedVault(replace(ASSETS, index=index)) for index in range(5)]
    counts = torch.tensor([vault.class_counts for vault in vaults]).sum(0)
    assert torch.equal(counts, torch.bincount(DIGITS.train_labels))
    scores = [vault.score(Constant()) for vault in vaults]
    assert [total for _, total in scores] == [72] * 5
    assert sum(right for right, _ in scores) == int((DIGITS.test_labels == 3).sum())
    assert {vault.shape for vault in vaults} == {(1, 8, 8)}


def test_an_owner_of_all_has_all() -> None:
    vault = TrainedVault(Assets())
    assert sum(vault.class_counts) == 1437
    assert vault.score(Constant())[1] == 360


def test_institutions_of_one_seed_train_differently() -> None:
    still = SupervisedSettings(epochs=1, learning_rate=1e-12)  # what remains is where each began
    starts = []
    for assets in (replace(ASSETS, index=index, training=still) for index in (0, 0, 1)):
        teacher = TrainedVault(assets).teacher
        assert isinstance(teacher, ModuleTeacher)
        starts.append(teacher.module.state_dict()["head.weight"])
    assert torch.allclose(starts[0], starts[1])
    assert not torch.allclose(starts[0], starts[2])


def test_scoring_does_not_change_the_model() -> None:
    model = build_network("cnn", 10, (1, 8, 8), 0).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    TrainedVault(ASSETS).score(model)
    assert model.training
    assert all(torch.equal(before[n], value) for n, value in model.state_dict().items())


def test_a_cached_teacher_is_found_again(tmp_path: Path) -> None:
    folder, watched = tmp_path / "vault", Watched()
    first = said(TrainedVault(ASSETS, folder, watched))
    assert watched.epochs == 2
    again = said(TrainedVault(ASSETS, folder, watched))
    assert watched.epochs == 2, "it was trained twice"
    assert torch.equal(first, again)


def test_only_the_owner_can_read_what_is_stored(tmp_path: Path) -> None:
    folder = tmp_path / "vault"
    said(TrainedVault(ASSETS, folder))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"teacher.safetensors": 0o600, "teacher.json": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "change",
    [
        {"index": 1},
        {"seed": 1},
        {"model": "mlp"},
        {"alpha": 0.4},
        {"training": SupervisedSettings(3)},
        {"training": SupervisedSettings(2, augmentation=Augmentation(1))},
    ],
)
def test_changed_assets_train_anew(tmp_path: Path, change: dict[str, Any]) -> None:
    said(TrainedVault(ASSETS, tmp_path))
    watched, changed = Watched(), replace(ASSETS, **change)
    fresh = said(TrainedVault(changed, tmp_path, watched))
    assert watched.epochs == changed.training.epochs
    assert torch.equal(fresh, said(TrainedVault(changed, tmp_path)))


LATER_FIELDS = (
    *("training", "partition_column", "tasks", "tasks_as_classes", "task"),
    *("embedding", "gallery"),
)
"""That metadata name otherwise, or only where a teacher has them."""


def test_a_teacher_cached_before_there_were_views_is_found_again(tmp_path: Path) -> None:
    keys = {"epochs": 2, "batch": 32, "learning_rate": 5e-3, "weight_decay": 5e-4}
    fields = ASSETS.cache_fields
    assert fields.pop("teach") == keys
    stored = {"names": "class_names", "private": "dp_training"}
    assert {stored.get(name, name): value for name, value in fields.items()} == {
        name: value for name, value in vars(ASSETS).items() if name not in LATER_FIELDS
    }


@pytest.mark.parametrize(
    ("assets", "origin"),
    [
        (Assets(), "cde705d4630545435109ab7dceda16aab845ab05dfe7a1e5bb1d2cd830f9e61d"),
        (
            Assets(voters=3, labels=(("a", "b"), ("c",)), class_names=("x", "y", "z")),
            "436749be16fd8daf0d06dc3c9cdb41a5d6c24460787b78351494562412e262df",
        ),
        (
            Assets(dp_training=DpSgdSettings(3.0), count=4, index=2),
            "ba00e86c3c03d3119bfe09028fcc6c38898ff150dc6050353103aa8a0da0e0fa",
        ),
        (
            Assets(training=SupervisedSettings(augmentation=Augmentation(2, True))),
            "2ecd789fe5b8bdbfcce66ec2eb2af594673322c592849f8c233cd85f3e6d190d",
        ),
    ],
)
def test_teachers_cached_by_earlier_versions_are_found(assets: Assets, origin: str) -> None:
    images, labels = torch.arange(128, dtype=torch.uint8).view(2, 1, 8, 8), torch.tensor([0, 1])
    metadata = cache_metadata(assets.model, 10, images, labels, assets.cache_fields)
    assert metadata["origin"] == origin


def test_changed_data_train_anew(tmp_path: Path) -> None:
    def write(flip: int) -> None:
        np.savez(
            tmp_path / "own.npz",
            train_images=DIGITS.train_images[:200, 0].numpy() ^ flip,
            train_labels=DIGITS.train_labels[:200].numpy(),
            test_images=DIGITS.test_images[:, 0].numpy(),
            test_labels=DIGITS.test_labels.numpy(),
        )
        # A later process has not read the file yet.
        fedkd.client.vault.local_data._open_dataset.cache_clear()

    watched, assets = Watched(), Assets("npz:own.npz", str(tmp_path), training=SHORT)
    for flip, epochs in ((0, 2), (0, 2), (1, 4)):
        write(flip)
        said(TrainedVault(assets, tmp_path / "vault", watched))
        assert watched.epochs == epochs


@pytest.mark.parametrize("name", ["teacher.safetensors", "teacher.json"])
def test_a_broken_file_is_named_and_not_quoted(tmp_path: Path, name: str) -> None:
    said(TrainedVault(ASSETS, tmp_path))
    (tmp_path / name).write_bytes(b"{secret")
    with pytest.raises(DataError, match="train anew") as caught:
        said(TrainedVault(ASSETS, tmp_path))
    assert "secret" not in str(caught.value)
    (tmp_path / "teacher.json").unlink()
    assert said(TrainedVault(ASSETS, tmp_path)).shape == (360, 10)


def test_the_guarantee_of_one_training_is_never_told_of_the_weights_of_another(
    tmp_path: Path,
) -> None:
    """Two processes may train in one folder, and write by turns."""
    said(TrainedVault(ASSETS, tmp_path / "one"))
    said(TrainedVault(replace(ASSETS, seed=7), tmp_path / "other"))
    weights, metadata = "teacher.safetensors", tmp_path / "one" / "teacher.json"
    (tmp_path / "one" / weights).write_bytes((tmp_path / "other" / weights).read_bytes())
    with pytest.raises(DataError, match=r"cannot be read; delete teacher\.json"):
        said(TrainedVault(ASSETS, tmp_path / "one"))
    old = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({k: v for k, v in old.items() if k != "weights"}))
    said(TrainedVault(ASSETS, tmp_path / "one"))  # of a release without the digest


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot keep the teacher"):
        said(TrainedVault(ASSETS, tmp_path / "file" / "vault"))


def test_a_classifier_is_fitted_anew_and_never_cached(tmp_path: Path) -> None:
    assets = replace(ASSETS, model="sklearn:LogisticRegression")
    logits = said(TrainedVault(assets, tmp_path))
    assert not list(tmp_path.iterdir())
    assert torch.equal(logits, said(TrainedVault(assets, tmp_path)))


def test_a_partition_file_says_who_has_what(tmp_path: Path) -> None:
    path = tmp_path / "parts.npz"
    np.savez(path, client_0=np.arange(100), client_1=np.arange(100, 130))
    assets = Assets(index=1, count=2, partition="file", partition_file=str(path))
    expected = torch.bincount(DIGITS.train_labels[100:130], minlength=10)
    assert TrainedVault(assets).class_counts == tuple(expected.tolist())


def test_nothing_is_printed_or_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    vault = TrainedVault(ASSETS, tmp_path)
    said(vault)
    vault.score(Constant())
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert "tensor" not in repr(vault) + repr(vault._data)


@pytest.mark.parametrize(
    "words",
    [
        {"index": 5, "count": 5},
        {"index": -1, "count": 5},
        {"partition": "file"},
        {"partition": "iid", "partition_file": "a.npz"},
    ],
)
def test_a_share_that_cannot_be_is_refused(words: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Assets(**words)
