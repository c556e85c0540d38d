"""Priors of rows: strata, covered pairs, uniform levels; and what would not pass for them."""

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from fedkd.procedural import TABLE_PRIORS, build_prior
from fedkd.procedural.table_priors import (
    CorrelatedRows,
    GaussianRows,
    LatinHypercube,
    PairwiseCover,
    SkewedRows,
    UniformRows,
)
from fedkd.protocol import level_index


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_latin_hypercube_has_one_value_in_each_stratum_of_each_column() -> None:
    rows = LatinHypercube()._rows(50, 7, rng())
    strata = (rows * 50).floor().long()
    assert torch.equal(strata.sort(0).values, torch.arange(50)[:, None].expand(-1, 7))
    plain = (UniformRows()._rows(50, 7, rng()) * 50).floor().long()
    assert not torch.equal(plain.sort(0).values, torch.arange(50)[:, None].expand(-1, 7))


def cells(rows: Tensor, first: int, second: int, parts: int) -> int:
    """How many cells of the grid of two columns have a row."""
    grid = (rows[:, [first, second]] * parts).floor().clamp(max=parts - 1).long()
    return len(set(map(tuple, grid.tolist())))


def test_pairwise_covers_every_cell_of_one_pair_of_columns() -> None:
    for seed in range(5):
        rows = PairwiseCover()._rows(50, 6, rng(seed))
        covered = [cells(rows, a, b, 7) for a in range(6) for b in range(a)]
        assert max(covered) == 49
        others = LatinHypercube()._rows(50, 6, rng(seed))
        assert max(cells(others, a, b, 7) for a in range(6) for b in range(a)) < 49


def test_pairwise_covers_every_pair_of_levels_over_many_batches() -> None:
    columns, levels, generator = 5, 4, rng()
    seen: set[tuple[int, int, int, int]] = set()
    for _ in range(60):
        rows = PairwiseCover()._rows(16, columns, generator)
        index = level_index(rows, torch.full((columns,), float(levels))).long()
        for a in range(columns):
            for b in range(a):
                seen.update((a, b, x, y) for x, y in index[:, [a, b]].tolist())
    assert len(seen) == math.comb(columns, 2) * levels**2


@pytest.mark.parametrize(("count", "columns"), [(3, 5), (50, 1), (1, 1)])
def test_pairwise_of_few_rows_or_one_column_is_a_latin_hypercube(count: int, columns: int) -> None:
    rows = PairwiseCover()._rows(count, columns, rng())
    assert torch.equal(rows, LatinHypercube()._rows(count, columns, rng()))


def p_value(name: str, levels: int) -> float:
    """Of a chi-squared test that draws are uniform over a column's levels."""
    prior = build_prior(name)
    drawn = torch.cat([prior.draw(64, (1, 1, 4), rng(seed)) for seed in range(100)])
    index = level_index(drawn[:, 0, 0, 1] / 255, torch.tensor(float(levels))).long()
    # Levels have 256 / L bytes each, some one more than others.
    of_byte = level_index(torch.arange(256) / 255, torch.tensor(float(levels))).long()
    expected = of_byte.bincount(minlength=levels) / 256 * len(index)
    return float(chisquare(index.bincount(minlength=levels), expected).pvalue)


@pytest.mark.parametrize("levels", [2, 3, 7])
def test_uniform_rows_are_uniform_over_levels_and_gaussian_ones_are_not(levels: int) -> None:
    assert p_value("uniform", levels) > 1e-3
    if levels > 2:  # two levels share a bell evenly
        assert p_value("gaussian", levels) < 1e-6


def test_gaussian_rows_have_the_stated_mean_and_deviation() -> None:
    rows = GaussianRows(0.1)._rows(20_000, 2, rng())
    assert torch.allclose(rows.mean(0), torch.full((2,), 0.5), atol=0.005)
    assert torch.allclose(rows.std(0), torch.full((2,), 0.1), atol=0.003)


def test_correlated_rows_are_correlated_and_uniform_ones_are_not() -> None:
    def strongest(rows: Tensor) -> float:
        found = torch.corrcoef(rows.T) - torch.eye(rows.shape[1])
        return float(found.abs().max())

    assert strongest(CorrelatedRows()._rows(2_000, 8, rng())) > 0.5
    assert strongest(UniformRows()._rows(2_000, 8, rng())) < 0.1


@pytest.mark.parametrize("name", TABLE_PRIORS)
def test_a_prior_of_rows_is_bytes_decided_by_its_seed(name: str) -> None:
    prior = build_prior(name)
    one, again, other = (prior.draw(20, (1, 1, 5), rng(seed)) for seed in (1, 1, 2))
    assert one.dtype == torch.uint8
    assert one.shape == (20, 1, 1, 5)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_skewed_rows_lie_towards_one_end_of_all_ranges_and_correlated_ones_do_not() -> None:
    def far(prior: CorrelatedRows) -> float:
        """Share of rows of which the mean of all columns is far from the middle."""
        rows = torch.cat([prior._rows(200, 12, rng(seed)).clamp(0, 1) for seed in range(40)])
        return float(((rows.mean(1) - 0.5).abs() > 0.25).float().mean())

    assert far(SkewedRows()) > 0.3
    assert far(CorrelatedRows()) < 0.1
    rows = SkewedRows()._rows(1_000, 3, rng())
    assert 0.0 <= float(rows.min()) < float(rows.max()) <= 1.0


@pytest.mark.parametrize("seed", range(20))
def test_every_batch_of_skewed_rows_has_small_and_large_ones(seed: int) -> None:
    # A prior is judged by its first batch, which therefore has to be like the next ones.
    size = SkewedRows()._rows(50, 12, rng(seed)).mean(1)
    assert 0.1 < float((size < 0.4).float().mean()) < 0.9
    assert 0.1 < float((size > 0.6).float().mean()) < 0.9
