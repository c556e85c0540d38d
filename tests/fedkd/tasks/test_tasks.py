"""Tasks: what cards predict decides the loss, the spread of answers and the scores."""

import pytest
import torch

from fedkd.errors import SettingsError
from fedkd.losses import l1_centred
from fedkd.protocol import Card, Number, Signal
from fedkd.tasks import (
    REGRESSION_LOSSES,
    Classification,
    Regression,
    number_sums,
    released_score,
    task_of,
)

LOGITS = frozenset({Signal.LOGITS})
STAY, COST = Number("stay", "days", 0.0, 60.0), Number("cost", "EUR", 100.0, 300.0)


def test_the_task_is_the_union_of_what_cards_predict() -> None:
    north = Card("north", 1, (1, 1, 2), LOGITS, numbers=(Number("stay", "days", 0.0, 60.0, 4.0),))
    south = Card("south", 2, (1, 1, 2), LOGITS, numbers=(STAY, COST))
    task = task_of([north, south])
    assert task == Regression((COST, STAY))  # by the alphabet, and no error of anybody
    plain = Card("north", 2, (1, 8, 8), LOGITS, class_names=("ill", "well"))
    assert task_of([plain]) == Classification(("ill", "well"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("squared", (0.01 + 0.16) / 2),
        # Huber of 0.1 and 0.4 with delta 0.05: delta (|e| - delta / 2).
        ("huber", 0.05 * ((0.1 - 0.025) + (0.4 - 0.025)) / 2),
        ("quantile", 0.5 * (0.1 + 0.4) / 2),
    ],
)
def test_a_loss_of_numbers_is_its_formula(name: str, value: float) -> None:
    student, target = torch.tensor([[0.5, 0.1]]), torch.tensor([[0.4, 0.5]])
    task = Regression((COST, STAY))
    loss = task.loss(l1_centred, name)
    assert loss(student, target).tolist() == [pytest.approx(value)]
    assert loss(target, target).tolist() == [0.0]
    assert REGRESSION_LOSSES[name] is loss


def test_huber_is_squared_for_small_errors() -> None:
    loss = REGRESSION_LOSSES["huber"]
    assert float(loss(torch.tensor([[0.52]]), torch.tensor([[0.5]]))) == pytest.approx(
        2e-4, rel=1e-4
    )


def test_auto_is_the_methods_loss_for_classes_and_the_squared_one_for_numbers() -> None:
    assert Classification(("a", "b")).loss(l1_centred, "auto") is l1_centred
    assert Regression((STAY,)).loss(l1_centred, "auto") is REGRESSION_LOSSES["squared"]
    with pytest.raises(SettingsError, match="for numbers, and these teachers predict classes"):
        Classification(("a", "b")).loss(l1_centred, "huber")
    with pytest.raises(SettingsError, match="choose auto or one of squared, huber, quantile"):
        Regression((STAY,)).loss(l1_centred, "l1_centred")


def test_numbers_are_spread_over_tenths_of_each_range() -> None:
    target = torch.tensor([[0.0, 0.05], [0.99, 1.0], [0.95, 0.5]])
    counts = Regression((COST, STAY)).histogram(target)
    assert counts.tolist() == [1, *([0] * 8), 2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert Classification(("a", "b", "c")).histogram(torch.eye(3)[[0, 0, 2]]).tolist() == [2, 0, 1]


def test_scores_of_one_number_are_in_its_unit() -> None:
    outputs, truth = torch.tensor([[0.1], [0.5], [0.9]]), torch.tensor([[0.2], [0.5], [0.8]])
    scores = Regression((STAY,)).scores(outputs, truth)
    assert scores["mae"] == pytest.approx(60 * 0.2 / 3)
    assert scores["rmse"] == pytest.approx(60 * (0.02 / 3) ** 0.5, rel=1e-5)
    assert scores["r2"] == pytest.approx(1 - 0.02 / 0.18, rel=1e-5)
    assert "rmse" not in Regression((COST, STAY)).scores(outputs.repeat(1, 2), truth.repeat(1, 2))


def test_r2_to_the_ensemble_compares_with_the_ensemble_and_not_the_truth() -> None:
    ensemble = torch.tensor([[0.3], [0.6], [0.9]])
    task = Regression((STAY,))
    alike = {"r2_to_ensemble": 1.0, "rmse_to_ensemble": 0.0, "mae_to_ensemble": 0.0}
    assert task.agreement(ensemble, ensemble) == pytest.approx(alike)
    constant = ensemble.mean().expand(3, 1)
    assert task.agreement(constant, ensemble)["r2_to_ensemble"] == pytest.approx(0.0, abs=1e-5)


def test_scores_of_classes_agree_with_scikit_learn() -> None:
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    rng = torch.Generator().manual_seed(0)
    truth = torch.randint(3, (200,), generator=rng)
    logits = torch.randn(200, 3, generator=rng) + 1.5 * torch.eye(3)[truth]
    scores = Classification(("a", "b", "c")).scores(logits, truth)
    p = logits.double().softmax(1).numpy()
    assert scores["auroc"] == pytest.approx(
        roc_auc_score(truth, p, multi_class="ovr", average="macro"), abs=1e-6
    )
    decided = logits.argmax(1)
    assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, decided))
    assert scores["accuracy"] == pytest.approx(float((decided == truth).float().mean()))


def test_sums_of_parts_give_the_scores_of_the_whole() -> None:
    rng = torch.Generator().manual_seed(0)
    said, truth = torch.rand(40, 1, generator=rng), torch.rand(40, 1, generator=rng)
    parts = [slice(0, 5), slice(5, 33), slice(33, 40)]
    released = [released_score(number_sums(said[rows], truth[rows])) for rows in parts]
    assert [each["num-examples"] for each in released] == [5, 28, 7]
    task = Regression((STAY,))
    whole = task.scores(said, truth)
    assert task.pooled(released) == {name: pytest.approx(whole[name]) for name in whole}


def test_a_student_that_answers_no_number_has_no_score() -> None:
    truth = torch.tensor([[0.0, torch.nan], [0.3, 0.2]])
    sums = number_sums(torch.full((2, 2), torch.nan), truth)
    assert all(error != error for error in [*sums["squared_error"], *sums["absolute_error"]])


def test_a_number_that_an_institution_lacks_counts_for_the_others_alone() -> None:
    said = torch.tensor([[0.1, 0.5], [0.2, 0.9]])
    north = number_sums(said, torch.tensor([[0.0, torch.nan], [0.3, torch.nan]]))
    south = number_sums(said, torch.tensor([[0.1, 0.5], [0.2, 0.9]]))
    assert north["rows"] == [2.0, 0.0]
    scores = Regression((COST, STAY)).pooled([north, south])
    squares = 0.0**2 + 0.3**2 + 0.1**2 + 0.2**2 - 0.6**2 / 4
    assert scores == {"r2": pytest.approx((1 - 0.02 / squares + 1) / 2)}


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"num-examples": 9, "accuracy": 0.9},
        {**number_sums(torch.ones(2, 1), torch.zeros(2, 1)), "rows": [float("nan")]},
        {**number_sums(torch.ones(2, 1), torch.zeros(2, 1)), "squared_error": [-1.0]},
        number_sums(torch.ones(2, 3), torch.zeros(2, 3)),
    ],
)
def test_a_score_that_is_none_of_the_task_is_left_out(bad: dict[str, object]) -> None:
    rows = torch.tensor([[0.2], [0.4]])
    good = number_sums(rows, rows)
    assert Regression((STAY,)).pooled([bad, good])["r2"] == pytest.approx(1.0)
    assert Regression((STAY,)).pooled([bad]) == {"r2": None, "rmse": None, "mae": None}


def test_accuracy_is_pooled_by_examples() -> None:
    released = [released_score((9, 10)), released_score((0, 30)), released_score((0, 0)), {}]
    assert Classification(("a", "b")).pooled(released) == {"accuracy": pytest.approx(9 / 40)}
    wrong = {"num-examples": 10, "accuracy": float("nan")}
    assert Classification(("a", "b")).pooled([wrong]) == {"accuracy": None}
