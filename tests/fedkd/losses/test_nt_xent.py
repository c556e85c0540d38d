"""NT-Xent against its definition, view by view."""

import pytest
import torch

from fedkd.losses.nt_xent import nt_xent


def test_it_is_the_sum_over_all_other_views() -> None:
    random = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 5, 7, generator=random, dtype=torch.float64)
    views = torch.nn.functional.normalize(torch.cat([first, second]), dim=1)
    found = nt_xent(first, second, 0.3)
    for i in range(5):
        each = []
        for one, other in ((i, i + 5), (i + 5, i)):
            alike = (views[one] @ views.T / 0.3).exp()
            each.append(-(alike[other] / (alike.sum() - alike[one])).log())
        assert float(found[i]) == pytest.approx(float(sum(each)) / 2)


def test_views_that_are_alike_cost_less_than_views_of_others() -> None:
    first = torch.eye(4)
    assert bool((nt_xent(first, first, 0.3) < nt_xent(first, first.roll(1, 0), 0.3)).all())
