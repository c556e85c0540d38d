"""GAS: its equations, and that a generator finds what its teacher takes for its action."""

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.source_types import Turn
from fedkd.domains import Table
from fedkd.errors import NeedsError, SettingsError
from fedkd.losses import Batch
from fedkd.methods import gas
from fedkd.models import InProcess
from fedkd.protocol import Card, Column, Signal
from fedkd.synthesis import GeneratorPerClass
from tests.support.contexts import Recorded, answered_by, context_of, drained
from tests.support.method_parts import shares_of, total
from tests.support.tapped_generators import generator_of

LOGITS = Signal.LOGITS
COLUMNS = tuple(Column(f"x{place}") for place in range(4))


def test_generators_seek_their_action_where_the_student_does_not_believe_it() -> None:
    teacher = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 0.3]]).double()
    student = torch.tensor([[0.1, 0.2, 0.4], [1.5, -0.5, 0.0]]).double()
    actions = torch.tensor([0, 2])
    p, q = teacher.softmax(1), student.softmax(1)
    certain = -(p[0, 0].log() + p[1, 2].log()) / 2
    apart = (p * (p / q).log()).sum(1).mean()
    batch = Batch(torch.zeros(2, 1, 1, 4), {LOGITS: teacher}, student, class_targets=actions)
    for weight in (1.0, 0.25):
        method = gas(adversarial_weight=weight)
        assert total(method, batch, 0.3) == pytest.approx(float(certain - weight * apart))
        assert float(method.loss(student, teacher).mean()) == pytest.approx(float(apart))


def test_by_default_generators_ask_everything_and_slopes_are_pulled_back() -> None:
    method = gas(steps_per_generator=4)
    target = generator_of(method).target
    assert isinstance(target, GeneratorPerClass)
    assert target.steps == 4
    assert shares_of(method, 0.0) == {"prior": 0.0, "evolution": 0.0, "generator": 1.0}
    card = Card("a", 2, (1, 1, 4), frozenset({LOGITS}), columns=COLUMNS)
    with pytest.raises(NeedsError, match="pull_back"):
        method.check([card])
    gas("finite_differences").check([card])


def test_a_student_cannot_stand_for_its_teacher() -> None:
    with pytest.raises(SettingsError, match="choose one of pull_back, straight_through, finite"):
        gas("student")  # type: ignore[arg-type]


class Policy(nn.Module):
    """Right where the first column is above a half, and sure of it further away."""

    def forward(self, rows: Tensor) -> Tensor:
        right = 8 * (rows.flatten(1)[:, :1] - 0.5)
        return torch.cat([-right, right], 1)


class Undecided(nn.Module):
    """A student that prefers nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(2))

    def forward(self, rows: Tensor) -> Tensor:
        return self.level.expand(len(rows), 2) + 0.0 * rows.flatten(1).sum(1, keepdim=True)


def test_rows_of_an_action_come_to_where_the_teacher_takes_it() -> None:
    teachers = InProcess({"a": Policy()}, (1, 1, 4), 2)
    teachers.cards = tuple(
        Card(c.name, 2, c.shape, c.signals, c.pull_back, columns=COLUMNS) for c in teachers.cards
    )
    method = gas(steps_per_generator=10)
    context = context_of(
        Undecided(), (1, 1, 4), 2, domain=Table(COLUMNS), record=Recorded(), seed=3
    )
    source, rng = context.part(generator_of(method)), torch.Generator().manual_seed(1)
    correct, first_rows = [], []
    for _ in range(20):
        proposal = source.propose(Turn(64, rng, 0.0))
        assert proposal is not None
        assert proposal.class_targets is not None
        rows = proposal.images.detach().flatten(1)
        right = rows[:, 0] > 0.5
        correct.append(float((right == (proposal.class_targets == 1)).float().mean()))
        first_rows.append(rows.clone())
        drained(source.learn(answered_by(teachers, proposal)), teachers)
    assert correct[0] < 0.8
    assert correct[9] > 0.95
    assert correct[10] < 0.8  # all generators have begun anew
    assert correct[19] > 0.95
