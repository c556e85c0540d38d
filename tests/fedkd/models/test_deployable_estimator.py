"""Estimators trained on answers: what they learn, and that their files predict the same."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fedkd.errors import DataError, SettingsError
from fedkd.models.deployable_estimator import (
    KINDS,
    EstimatorNetwork,
    check_estimator_kind,
    fit_estimator,
)
from fedkd.protocol import Column, Number
from fedkd.server.report.records.estimator_export import (
    ONNX,
    SKOPS,
    compared,
    export_estimator,
)
from fedkd.server.run.estimator_of_run import check_parity

COLUMNS = (
    Column("age", 18, 100, whole=True),
    Column("ward", levels=("general", "burns", "intensive"), high=2.0),
    Column("fever", 36, 41),
)
STAY, COST = Number("stay", "days", 0.0, 60.0), Number("cost", "EUR", 100.0, 300.0)


def banked(count: int = 600) -> tuple[Tensor, Tensor]:
    """Samples (N, 1, 1, 3) uint8, and a share in [0, 1] that is linear in levels and columns."""
    rng = torch.Generator().manual_seed(0)
    samples = torch.randint(0, 256, (count, 1, 1, 3), generator=rng, dtype=torch.uint8)
    unit = samples.flatten(1).float() / 255
    ward = torch.tensor([0.0, 0.3, 0.1])[(samples[:, 0, 0, 1].long() * 3) // 256]
    return samples, 0.3 * unit[:, 0] + ward + 0.3 * unit[:, 2]


CASES: Sequence[tuple[tuple[Number, ...], tuple[str, ...]]] = (
    ((STAY,), ("stay",)),
    ((COST, STAY), ("cost", "stay")),
    ((), ("well", "ill")),  # not in the order of the alphabet
    ((), ("b", "c", "a")),
)


def targets_of(share: Tensor, numbers: tuple[Number, ...], outputs: int) -> Tensor:
    if numbers:
        return torch.stack([share, 1 - share], 1)[:, :outputs]
    return torch.stack([4 * share, 2 - 4 * share, torch.zeros_like(share)], 1)[:, :outputs]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("numbers", "names"), CASES)
def test_an_estimator_learns_answers_and_its_files_predict_the_same(
    kind: str, numbers: tuple[Number, ...], names: tuple[str, ...], tmp_path: Path
) -> None:
    samples, share = banked()
    targets = targets_of(share, numbers, len(names))
    estimator = fit_estimator(kind, samples, targets, COLUMNS, names, numbers)
    said = EstimatorNetwork(estimator)(samples.float() / 255)
    want = targets if numbers else targets.softmax(1)
    assert float(((said if numbers else said.softmax(1)) - want).abs().mean()) < 0.03
    found = export_estimator(estimator, tmp_path, samples)
    for parity in found.values():
        assert parity["rows"] == 256
        assert not parity["failed"]
        assert 0 <= parity["max_difference"] < 1e-5
    assert {file.name for file in tmp_path.iterdir()} == {SKOPS, ONNX}
    assert all(file.stat().st_mode & 0o77 == 0 for file in tmp_path.iterdir())
    check_parity(found)


def test_soft_targets_are_learned_as_probabilities() -> None:
    samples, _ = banked(400)
    targets = torch.tensor([[0.7, 0.3]]).log().expand(400, -1)
    for kind in KINDS:
        estimator = fit_estimator(kind, samples, targets, COLUMNS, ("a", "b"))
        said = EstimatorNetwork(estimator)(samples.float() / 255).softmax(1)
        assert said[:, 0].tolist() == pytest.approx([0.7] * 400, abs=0.01)


def test_a_file_that_predicts_otherwise_is_removed_and_told(tmp_path: Path) -> None:
    samples, share = banked(50)
    estimator = fit_estimator("linear", samples, share[:, None], COLUMNS, ("stay",), (STAY,))

    path = tmp_path / SKOPS
    path.write_bytes(b"")
    rows = estimator.rows(samples)
    found = {"skops": compared(estimator, lambda rows: estimator.predict(rows) + 6, path, rows)}
    assert found["skops"]["failed"]
    assert found["skops"]["max_difference"] == pytest.approx(0.1, rel=1e-3)
    assert not path.exists()
    with pytest.raises(DataError, match=r"as skops predicts otherwise, by 0\.1 of 1"):
        check_parity(found)


def test_images_have_no_such_estimator() -> None:
    with pytest.raises(SettingsError, match="reads rows of a table"):
        check_estimator_kind("linear", table=False)
    check_estimator_kind("linear", table=True)
