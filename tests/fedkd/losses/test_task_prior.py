"""Terms of several tasks: those of classes in each task, summed."""

import pytest
import torch

from fedkd.losses import (
    Batch,
    Term,
    class_balance,
    one_hot,
    task_balance,
    task_one_hot,
    task_sparsity,
)
from fedkd.protocol import Signal

GROUPS = (slice(0, 3), slice(3, 5))
LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


def batch(logits: torch.Tensor, groups: tuple[slice, ...] = ()) -> Batch:
    return Batch(torch.zeros(6, 1, 2, 2), {Signal.LOGITS: logits}, logits, groups=groups)


@pytest.mark.parametrize(
    ("several", "one"), [(task_one_hot(), one_hot()), (task_balance(), class_balance())]
)
def test_a_term_is_that_of_classes_in_each_task(several: Term, one: Term) -> None:
    whole = several.value(batch(LOGITS, GROUPS))
    parts = [one.value(batch(LOGITS[:, at])) for at in GROUPS]
    assert torch.allclose(whole, torch.stack(parts).sum())
    assert torch.allclose(several.value(batch(LOGITS)), one.value(batch(LOGITS)))


def test_sparsity_is_what_no_task_decides_for() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2, 0.9, 0.1]]).log()
    assert float(task_sparsity().value(batch(p, GROUPS))) == pytest.approx(0.5 / 2 + 0.1)


@pytest.mark.parametrize("term", [task_one_hot(), task_balance(), task_sparsity()])
def test_a_task_that_nobody_answered_is_left_out(term: Term) -> None:
    logits = LOGITS.clone().requires_grad_()
    unheard = torch.cat([torch.full((6, 3), torch.nan), logits[:, 3:]], 1)
    value = term.value(batch(unheard, GROUPS))
    assert torch.allclose(value, term.value(batch(LOGITS[:, 3:])))
    value.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert term.tasks == {"classes", "tasks"}
