"""Zhou and Chiam's method on tables: terms, rows, shares, and who can be asked."""

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.source_types import Turn
from fedkd.domains import Table
from fedkd.errors import NeedsError, SettingsError
from fedkd.losses import Batch, row_magnitude, squared_discrepancy, student_magnitude
from fedkd.methods import Method, dfkd_regression, zskt
from fedkd.models import InProcess, RowGenerator, TableTeacher
from fedkd.protocol import Card, Column, Number, Signal
from fedkd.synthesis import RowBatch
from fedkd.tasks import Regression
from tests.support.contexts import Recorded, answered_by, context_of, drained
from tests.support.method_parts import shares_of, total, weights_of
from tests.support.tapped_generators import generator_of

LOGITS = Signal.LOGITS
NUMBER = Number("y")
COLUMNS = tuple(Column(f"x{place}") for place in range(4))


def batch() -> Batch:
    rows = torch.tensor([[0.0, 1.0], [0.5, 0.25]])[:, None, None, :]
    return Batch(rows, {LOGITS: torch.tensor([[0.2], [0.9]])}, torch.tensor([[0.5], [0.7]]))


def test_terms_are_the_papers_in_units_of_a_uniform_deviation() -> None:
    apart = -12 * (0.3**2 + 0.2**2) / 2
    far, wide = 12 * (0.0 + 0.2**2) / 2, 12 * (0.25 + 0.25 + 0.0 + 0.0625)
    assert float(squared_discrepancy().value(batch())) == pytest.approx(apart)
    assert float(student_magnitude().value(batch())) == pytest.approx(far)
    assert float(row_magnitude().value(batch())) == pytest.approx(wide)
    method = dfkd_regression(student_weight=0.5, row_weight=0.25)
    assert total(method, batch(), 0.3) == pytest.approx(apart + 0.5 * far + 0.25 * wide)


def test_defaults_are_those_of_the_paper() -> None:
    names = ("squared_discrepancy", "student_magnitude", "row_magnitude")
    assert weights_of(dfkd_regression(), 0.5) == dict(zip(names, (1.0, 1e-5, 1e-5), strict=True))
    assert shares_of(dfkd_regression(), 0.25) == {"prior": 0.25, "generator": 0.75}
    assert shares_of(dfkd_regression(), 1.0) == {"prior": 1.0, "generator": 0.0}
    generator = RowGenerator(50, 7)
    assert generator.hidden.out_features == 500
    assert generator(torch.randn(3, 50)).shape == (3, 1, 1, 7)


def test_numbers_will_do_and_scores_alone_are_the_default() -> None:
    card = Card("a", 1, (1, 1, 4), frozenset({LOGITS}), columns=COLUMNS, numbers=(NUMBER,))
    dfkd_regression().check([card])
    with pytest.raises(NeedsError, match="pull_back"):
        dfkd_regression("pull_back").check([card])
    with pytest.raises(NeedsError, match="is for numbers, and b predicts classes"):
        dfkd_regression().check([Card("b", 3, (1, 1, 4), frozenset({LOGITS}), columns=COLUMNS)])
    with pytest.raises(NeedsError, match="is for classes"):
        zskt("finite_differences").check([card])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"gradient": "student"}, "choose one of finite_differences, pull_back"),
        ({"form": "both"}, "choose direct or generator"),
        ({"generated": 1.5}, r"expected both in \[0, 1\]"),
        ({"student_weight": -1.0}, "weight"),
        ({"generator_rate": 0.0}, "rate"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        dfkd_regression(**arguments)  # type: ignore[arg-type]


class Flat(nn.Module):
    """A student that predicts the middle everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5))

    def forward(self, rows: Tensor) -> Tensor:
        return self.level.expand(len(rows), 1) + 0.0 * rows.flatten(1).sum(1, keepdim=True)


class Slope(nn.Module):
    """A teacher whose number is half of the first column."""

    def forward(self, rows: Tensor) -> Tensor:
        return 0.25 + 0.5 * rows.flatten(1)[:, :1]


def trees(rows: object) -> object:
    """The same as an estimator: no slope can be pulled back."""
    return 0.25 + 0.5 * rows[:, :1]  # type: ignore[index]


def moved(method: Method, teachers: InProcess, batches: int) -> tuple[Tensor, Tensor]:
    """Rows as they were asked about first, and after the steps on them: (B, D) each."""
    context = context_of(
        Flat(), (1, 1, 4), 1, task=Regression((NUMBER,)), domain=Table(COLUMNS), record=Recorded()
    )
    source, rng = context.part(generator_of(method)), torch.Generator().manual_seed(1)
    seen = []
    for _ in range(batches):
        proposal = source.propose(Turn(32, rng, 0.0))
        assert proposal is not None
        seen.append(proposal.images.detach().flatten(1).clone())
        drained(source.learn(answered_by(teachers, proposal, rule="mean")), teachers)
    return seen[0], seen[-1]


def institutions(gradient: str) -> InProcess:
    slopeless = TableTeacher(trees, COLUMNS, 1, (NUMBER,))  # type: ignore[arg-type]
    at_hand = InProcess({"a": Slope() if gradient == "pull_back" else slopeless}, (1, 1, 4), 1)
    at_hand.cards = tuple(
        Card(c.name, 1, c.shape, c.signals, c.pull_back, columns=COLUMNS, numbers=(NUMBER,))
        for c in at_hand.cards
    )
    return at_hand


@pytest.mark.parametrize("gradient", ["pull_back", "finite_differences"])
def test_rows_move_to_where_student_and_teacher_differ(gradient: str) -> None:
    """The student says 1/2 and the teacher 1/4 + x / 2: they differ at both ends of x."""
    method = dfkd_regression(gradient, steps_per_batch=8, row_weight=0.0)  # type: ignore[arg-type]
    first, last = moved(method, institutions(gradient), 8)
    assert (last[:, 0] - 0.5).abs().mean() > (first[:, 0] - 0.5).abs().mean() + 0.05
    if gradient == "pull_back":  # differences are along random directions of all columns
        assert torch.allclose(first[:, 1:].clamp(0, 1), last[:, 1:], atol=1e-6)


def test_rows_begin_anew_after_their_steps() -> None:
    method = dfkd_regression("pull_back", steps_per_batch=2)
    first, third = moved(method, institutions("pull_back"), 3)
    assert (first - third).abs().mean() > 0.1
    assert isinstance(generator_of(method).target, RowBatch)
    deviation = float(first.std())
    assert 0.2 < deviation < 0.3  # N(1/2, 1/12), clamped
