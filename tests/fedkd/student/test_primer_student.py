"""The primer of DIP-KD: taught first, and its logits learned by the student."""

import copy
import math

import pytest
import torch
from torch import nn

from fedkd.core.bank import Bank
from fedkd.core.schedules import constant, ramp
from fedkd.errors import SettingsError
from fedkd.loop import Distillation, Plan, Progress, drive
from fedkd.losses import cross_entropy
from fedkd.methods import dip_kd
from fedkd.models import InProcess
from fedkd.procedural import build_priors
from fedkd.student.primer_student import Primer, TaughtPrimer
from fedkd.student.training import Trainer
from tests.support.contexts import Clock, context_of

SHAPE = (1, 6, 6)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 4))


def test_a_student_learns_decisions_and_once_it_is_taught_the_primers_logits() -> None:
    images = torch.randint(0, 256, (1, *SHAPE), generator=rng(3), dtype=torch.uint8)
    plan, bank = Plan(10, 8, 5, student_batch=8), Bank()
    bank.add(images, torch.tensor([[0.2, 0.1, 5.0, 0.3]]))
    clock, student = Clock(plan), network(1)
    context = context_of(student, SHAPE, 4, plan=plan, bank=bank, clock=clock, loss=cross_entropy)
    primer = context.part(Primer(0.5, 1.0, ramp(0.0, 0.6, 0.0, 1.0)))

    def losses(progress: float) -> list[float]:
        trainer = Trainer(
            *(copy.deepcopy(student), context.loss, context.sample_weights, plan),
            parts=(primer,),
        )
        return trainer.step(bank, rng(0), 0, progress)[0].tolist()

    with torch.no_grad():
        own = student(images.float() / 255)[0].double()
    hard = -float(own.log_softmax(0)[2])
    clock.asked = 4
    primer.prepare(rng(1))
    assert losses(0.5) == pytest.approx([hard] * 8, rel=1e-5)
    clock.asked = 5
    primer.prepare(rng(1))
    with torch.no_grad():
        hint = primer.network.eval()(images.float() / 255)[0].double()
    soft = float((own - hint).abs().mean())
    assert soft > 1e-3
    assert losses(0.5) == pytest.approx([hard + 0.3 * soft] * 8, rel=1e-5)
    assert losses(1.0) == pytest.approx([hard + 0.6 * soft] * 8, rel=1e-5)


def test_the_primer_is_taught_once_and_before_the_student() -> None:
    teachers = InProcess({"a": network(7)}, SHAPE, 4)
    events: list[Progress] = []
    steps: list[int] = []
    student = network(1)
    run = Distillation(
        *(student, dip_kd(contrast_steps=2, primer_steps=0.5), teachers.cards),
        *(Plan(100, 10, 40, student_batch=8), build_priors("pink"), 0, events.append),
    )
    primer = run._student_parts["primer"]
    assert isinstance(primer, TaughtPrimer)
    primer._trainer.optimizer.register_step_post_hook(lambda *_: steps.append(run.student_steps))
    drive(run.requests(), teachers.answer)
    assert steps == [0] * 20
    asked = [(p.facts["asked"], p.facts["origin"]) for p in events if p.kind == "asked"]
    assert [origin for _, origin in asked] == ["pink"] * 5 + ["contrast"] * 5
    weights = [torch.cat([p.flatten() for p in n.parameters()]) for n in (student, primer.network)]
    assert not torch.equal(*weights)


def test_a_primer_that_was_taught_is_not_taught_again_after_a_resume() -> None:
    plan, bank = Plan(10, 8, 5, student_batch=8), Bank()
    bank.add(torch.zeros(1, *SHAPE, dtype=torch.uint8), torch.zeros(1, 4))
    context = context_of(network(1), SHAPE, 4, plan=plan, bank=bank, clock=Clock(plan, asked=5))
    spec = Primer(0.5, 1.0, constant(1.0))
    taught, again = spec.build(context), spec.build(context)
    taught.prepare(rng(0))
    again.restore(taught.state())
    again.prepare(rng(1))
    for name, tensor in taught.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])


@pytest.mark.parametrize(
    ("begins", "steps"), [(-0.1, 1.0), (1.0, 1.0), (0.5, 0.0), (0.5, math.inf)]
)
def test_numbers_out_of_range_are_refused(begins: float, steps: float) -> None:
    with pytest.raises(SettingsError, match=r"primer: steps .* expected > 0 and in \[0, 1\)"):
        Primer(begins, steps, constant(1.0))


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(SettingsError, match="the weight of the primer's logits is -1"):
        Primer(0.5, 1.0, constant(-1.0))
