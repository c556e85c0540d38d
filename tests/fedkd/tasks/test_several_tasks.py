"""Several tasks: one loss for each, and scores of each and of all together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.core import Score
from fedkd.errors import SettingsError
from fedkd.losses import kl_divergence, l1_centred
from fedkd.protocol import Card, NamedTask, Signal
from fedkd.tasks import (
    SeveralTasks,
    pooled_task_accuracies,
    released_score,
    task_counts,
    task_of,
)
from fedkd.tasks.released_scores import flat_scores, nested_scores

HOLE = NamedTask("hole", ("closed", "open", "two"))
ODD = NamedTask("odd", ("even", "odd"))
TASK = SeveralTasks((HOLE, ODD))
NAN = float("nan")


def test_the_task_is_the_union_of_what_cards_name() -> None:
    logits = frozenset({Signal.LOGITS})
    north = Card("north", 2, (1, 8, 8), logits, tasks=(ODD,))
    south = Card(
        "south", 3, (1, 8, 8), logits, tasks=(NamedTask("hole", ("open", "two", "closed")),)
    )
    assert task_of([north, south]) == TASK
    assert TASK.record()["tasks"][1] == {
        "name": "odd",
        "class_names": ("even", "odd"),
        "kind": "softmax",
    }


@pytest.mark.parametrize("loss", [l1_centred, kl_divergence(2.0)])
def test_the_loss_is_that_of_each_task_summed(loss: object) -> None:
    assert callable(loss)
    student, target = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = loss(student[:, :3], target[:, :3]) + loss(student[:, 3:], target[:, 3:])
    assert torch.allclose(TASK.loss(loss, "auto")(student, target), expected)


def test_what_nobody_answered_has_no_loss_and_no_slope() -> None:
    student = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    target[0, :3] = NAN  # a task of one sample
    target[:, 4] = NAN  # a class that nobody knows
    found = TASK.loss(l1_centred, "auto")(student, target)
    assert found.isfinite().all()
    found.sum().backward()
    slope = student.grad
    assert slope is not None
    assert slope.isfinite().all()
    assert float(slope[0, :3].abs().max()) == 0.0
    assert float(slope[1:, :3].abs().min()) > 0.0
    nothing = TASK.loss(l1_centred, "auto")(student, torch.full((3, 5), NAN))
    assert nothing.tolist() == [0.0] * 3
    with pytest.raises(SettingsError, match="is for numbers"):
        TASK.loss(l1_centred, "huber")


def test_scores_are_of_each_task_and_of_all() -> None:
    outputs = torch.tensor([[9.0, 0, 0, 9, 0], [0, 9, 0, 0, 9], [0, 0, 9, 9, 0], [9, 0, 0, 0, 9]])
    truth = torch.tensor([[0, 0], [1, 0], [2, 0], [1, 1]])
    scores = TASK.scores(outputs, truth)
    assert scores["task_accuracy"] == {"hole": 0.75, "odd": 0.75}
    assert scores["all_tasks_accuracy"] == 0.5
    assert scores["accuracy"] == 0.75
    alone = torch.cat([torch.full((4, 3), NAN), outputs[:, 3:]], 1)
    of_teacher = TASK.scores(alone, truth)
    assert of_teacher["all_tasks_accuracy"] is None
    assert of_teacher["task_accuracy"] == {"hole": None, "odd": 0.75}
    recall = TASK.recall(outputs, truth)
    assert recall["odd: even"] == pytest.approx(2 / 3)
    assert recall["hole: open"] == 0.5


def test_held_back_samples_count_where_a_task_was_answered() -> None:
    fused = torch.tensor([[9.0, 0, 0, 9, 0], [0, 9, 0, 9, 0], [NAN, NAN, NAN, 9, 0]])
    student = torch.tensor([[9.0, 0, 0, 9, 0], [9, 0, 0, 9, 0], [9, 0, 0, 9, 0]])
    scores = TASK.held_back(student, fused)
    assert scores["agreement"] == 0.5
    assert scores["task_agreement"] == {"hole": 0.5, "odd": 1.0}
    nobody = TASK.held_back(student, torch.full((3, 5), NAN))
    assert nobody["agreement"] is None
    assert nobody["kl"] is None


def test_answers_spread_within_each_task() -> None:
    target = torch.tensor([[9.0, 0, 0, 9, 0], [0, 9, 0, 9, 0], [NAN, NAN, NAN, 0, 9]])
    assert TASK.histogram(target).tolist() == [1, 1, 0, 2, 1]
    label, confidence = TASK.headline(target)
    assert label.tolist()[2] == 4
    assert bool((confidence > 0.99).all())
    assert TASK.readable(target).sum(1).tolist() == pytest.approx([2.0, 2.0, 1.0])


@given(st.integers(1, 40), st.integers(0, 2**16))
def test_pooled_counts_are_the_scores_of_all_samples_together(count: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, 5, generator=rng)
    truth = torch.stack([torch.randint(k, (count,), generator=rng) for k in (3, 2)], 1)
    cut = count // 2
    released = [
        released_score(task_counts(outputs[part], TASK.tasks, TASK.tasks, truth[part]))
        for part in (slice(0, cut), slice(cut, count))
    ]
    pooled, whole = TASK.pooled(released), TASK.scores(outputs, truth)
    assert flat_scores(pooled) == pytest.approx(
        {n: s for n, s in flat_scores(whole).items() if not n.startswith("ece")}, rel=1e-5
    )
    assert flat_scores(nested_scores(flat_scores(pooled))) == flat_scores(pooled)


def test_an_institution_of_one_task_tells_of_that_one() -> None:
    outputs = torch.tensor([[0.0, 0, 9, 9, 0], [9, 0, 0, 0, 9]])
    own = NamedTask(
        "hole", ("two", "ajar")
    )  # in its own order, with a class unknown to the student
    counts = task_counts(outputs, TASK.tasks, (own,), torch.tensor([[0], [1]]))
    assert counts == {
        "task_rows": [2, 0],
        "task_right": [1, 0],
        "all_rows": [0],
        "all_right": [0],
    }
    pooled = TASK.pooled([released_score(counts)])
    assert pooled["task_accuracy"] == {"hole": 0.5, "odd": None}
    assert pooled["all_tasks_accuracy"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"num-examples": 2, "accuracy": 1.0},
        {"task_rows": [2], "task_right": [1], "all_rows": [0], "all_right": [0]},
        {"task_rows": [2, 1], "task_right": [3, 1], "all_rows": [0], "all_right": [0]},
        {"task_rows": [2, -1], "task_right": [1, -1], "all_rows": [0], "all_right": [0]},
        {"task_rows": "ab", "task_right": "ab", "all_rows": "a", "all_right": "a"},
    ],
)
def test_scores_that_are_none_are_left_out(wrong: dict[str, object]) -> None:
    found: dict[str, Score] = pooled_task_accuracies(["hole", "odd"], [wrong])
    assert flat_scores(found) == {}
