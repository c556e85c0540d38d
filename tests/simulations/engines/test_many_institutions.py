"""Many institutions: what grows with their number, and what must not."""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedkd.aggregation.fusion_rules import RuleFusion
from fedkd.aggregation.log_linear_pool import LEAST_WEIGHT, RIDGE, _pool_matrix
from fedkd.client.vault import local_data as shard
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.vault_settings import Assets
from fedkd.data.partition import assign_samples
from fedkd.errors import SettingsError
from fedkd.experiment import Experiment, parse_experiment
from fedkd.protocol import Ask, Reply, Signal
from fedkd.server.report.institutions.many_institutions import MAX_SHOWN, abbreviated_names, ranges
from fedkd.server.report.plots import class_counts, difficulty_by_institution
from fedkd.server.report.records.event_schema import Event, Scored, Trained
from fedkd.server.report.records.result_schema import Result, TeacherRecord
from fedkd.server.report.score_plot import score_curve
from fedkd.simulations.benchmarks.batched_teachers import (
    build_teachers,
    grouped,
    one_by_one,
    vmapped,
)
from fedkd.simulations.engines import evaluation
from fedkd.simulations.engines.local import LocalInstitutions


def by_least_squares(counts: Tensor, known: Tensor | None, shrinkage: float) -> Tensor:
    """The pool's matrix out of its definition: every square is a row, offsets are unknowns too."""
    institutions, classes = counts.shape
    had = torch.ones_like(counts, dtype=torch.bool) if known is None else known
    mean = counts[had].mean().clamp_min(1.0)
    rows, right = [], []
    for t in range(institutions):
        for k in range(classes):
            root = float((counts[t, k] / mean).sqrt().clamp_min(LEAST_WEIGHT) * had[t, k]) ** 0.5
            row = torch.zeros(classes + institutions).double()
            row[k], row[classes + t] = root, -root
            rows.append(row)
            right.append(torch.zeros(institutions, classes).double())
            right[-1][t, k] = root
    pulled = [torch.eye(classes + institutions).double()[classes:] * shrinkage**0.5]
    if known is not None:
        middle = torch.zeros(classes, classes + institutions).double()
        middle[:, :classes] = (torch.eye(classes) - 1 / classes) * RIDGE**0.5
        pulled.append(middle)
    system = torch.cat([torch.stack(rows), *pulled])
    right_side = torch.zeros(len(system), institutions * classes).double()
    right_side[: len(rows)] = torch.stack(right).flatten(1)
    solution: Tensor = torch.linalg.lstsq(system, right_side, driver="gelsd").solution
    return solution[:classes].view(classes, institutions, classes)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.booleans())
def test_solving_for_classes_alone_is_solving_for_everything(seed: int, apart: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 50, (6, 5), generator=rng).double()
    known = None
    if apart:
        known = torch.rand(6, 5, generator=rng) < 0.6
        known |= ~known.any(0)
        counts = counts * known
    found = _pool_matrix(counts, known, 0.1 if apart else 10.0)
    expected = by_least_squares(counts, known, 0.1 if apart else 10.0)
    assert torch.allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize(
    ("model", "shape"),
    [("cnn", (1, 8, 8)), ("cnn", (1, 16, 16)), ("mlp", (1, 8, 8)), ("lenet5", (1, 16, 16))],
)
def test_stacked_teachers_say_what_each_says_alone(model: str, shape: tuple[int, int, int]) -> None:
    networks, rng = build_teachers(model, shape, 5), torch.Generator().manual_seed(1)
    for network in networks:  # statistics that are not those of a fresh batch norm
        for statistic in network.buffers():
            if statistic.is_floating_point():
                statistic.copy_(torch.rand(statistic.shape, generator=rng) + 0.5)
    images = torch.rand(7, *shape, generator=rng)
    alone = one_by_one(networks)(images)
    assert alone.shape == (5, 7, 10)
    assert torch.allclose(vmapped(networks, 2)(images), alone, atol=1e-5)
    if model == "cnn":
        assert torch.allclose(grouped(networks, 2)(images), alone, atol=1e-5)


def few(tmp_path: Path, count: int, **more: Any) -> Experiment:
    """Institutions of a few images, with teachers that learn nothing."""
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "images.npz",
        train_images=rng.integers(0, 256, (4 * count, 8, 8), dtype=np.uint8),
        train_labels=np.arange(4 * count) % 10,
        test_images=rng.integers(0, 256, (12, 8, 8), dtype=np.uint8),
        test_labels=np.arange(12) % 10,
    )
    where = {"data": f"npz:{tmp_path / 'images.npz'}", "count": count, "partition": "iid"}
    return parse_experiment(
        {"name": "few", "institutions": {**where, "epochs": 1, "models": ["mlp"], **more}}
    )


def test_the_data_are_dealt_once_for_all(tmp_path: Path) -> None:
    experiment = few(tmp_path, 40)
    shard._assignment.cache_clear()
    local_institutions = LocalInstitutions(experiment, tmp_path / "teachers", lambda count: None)
    assert shard._assignment.cache_info().misses == 1
    assert len(local_institutions.cards) == 40


def test_more_institutions_than_test_images_leave_some_without() -> None:
    labels = torch.arange(30) % 10
    dealt = assign_samples([torch.tensor([i]) for i in range(30)], labels, labels[:4], 10)
    assert [part.tolist() for part in dealt.tests] == [[0], [1], [2], [3], *[[]] * 26]


def test_another_partition_of_the_same_data_is_another_deal(tmp_path: Path) -> None:
    few(tmp_path, 10)
    data = f"npz:{tmp_path / 'images.npz'}"
    holdings = [Assets(data=data, count=10, partition_seed=seed) for seed in (0, 1, 0)]
    counts = [TrainedVault(each).class_counts for each in holdings]
    assert counts[0] == counts[2] != counts[1]


@pytest.fixture
def few_files() -> Iterator[int]:
    """A process that may open as few files as most may at first, or fewer."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, before[1]))
    yield allowed
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_ledgers_on_disk_have_the_files_they_need(tmp_path: Path, few_files: int) -> None:
    count = 40  # with three files each, more than were allowed
    local_institutions = LocalInstitutions(
        few(tmp_path, count), tmp_path / "teachers", lambda done: None, ledgers=tmp_path / "ledgers"
    )
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    answers, lost = local_institutions.answer(Ask(images, frozenset({Signal.LOGITS})))
    assert (len(answers), lost) == (count, {})
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > few_files


def test_too_many_ledgers_are_refused_before_a_teacher_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 200))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: None)  # or it would stay so
    with pytest.raises(SettingsError, match="--checkpoint 0"):
        LocalInstitutions(
            few(tmp_path, 40), tmp_path / "t", lambda done: None, ledgers=tmp_path / "ledgers"
        )
    assert not (tmp_path / "t").exists()


def test_fusing_in_chunks_is_fusing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    outputs = {f"i{i}": {Signal.LOGITS: torch.randn(50, 4, generator=rng)} for i in range(6)}
    fuse = RuleFusion("log_linear_pool", dict.fromkeys(outputs, (5, 3, 0, 9)))
    whole = fuse({n: Reply(s).signals for n, s in outputs.items()})[Signal.LOGITS]
    monkeypatch.setattr(evaluation, "MAX_FUSED_LOGITS", 24 * 7)  # seven images at once
    assert torch.allclose(evaluation._fuse_in_chunks(fuse, outputs), whole, atol=1e-6)


def record(index: int) -> TeacherRecord:
    return TeacherRecord(
        name=f"i{index:04d}",
        model="mlp",
        accuracy=index / 1000,
        samples_asked=64,
        samples_pulled_back=0,
        bytes_received=0,
        bytes_sent=0,
        refusals=0,
        epsilon=None,
        delta=None,
        class_counts=(1, 2, 3),
    )


def test_plots_of_a_thousand_institutions_stay_small() -> None:
    records = tuple(record(index) for index in range(1000))
    names = [teacher.name for teacher in records]
    difficulty = dict.fromkeys(names, 0.1)
    events: list[Event] = [
        Trained(step=s, asked=s, loss=1.0, difficulty_by_institution=difficulty) for s in (1, 2, 3)
    ]
    scores: list[Event] = [Scored(step=s, asked=s, accuracy=0.5) for s in (1, 2, 3)]
    result = Result.model_construct(
        teachers=records, ensemble=Result.model_fields["ensemble"].annotation(accuracy=0.9)
    )
    drawn = (
        score_curve(result, scores),
        class_counts(records, ()),
        difficulty_by_institution(events),
    )
    assert all(svg is not None and len(svg) < 300_000 for svg in drawn)
    assert f"{MAX_SHOWN} of 992 others" in str(drawn[2])


def test_a_crowd_is_told_in_ranges() -> None:
    records = [record(index) for index in range(1000)]
    assert ranges(records[:MAX_SHOWN]) == []
    own = ranges(records)[0]
    assert (own.least, own.median, own.most) == ("0.0%", "50.0%", "99.9%")
    assert [each.label for each in ranges(records)][-1] == "Refusals"  # nobody promises anything
    assert abbreviated_names(["a", "b"]) == "a, b"
    assert abbreviated_names([str(n) for n in range(1000)]).endswith(
        f"{MAX_SHOWN - 1} and 940 others"
    )
