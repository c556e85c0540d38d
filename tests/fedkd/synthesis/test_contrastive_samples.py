"""DIP-KD: images moved apart, a primer taught first, and a student that hears it."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from fedkd.synthesis.contrastive_pixels import VIEW, Contrasted, contrastive
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.loop import Distillation, Plan, Progress, drive
from fedkd.methods import dip_kd
from fedkd.models import InProcess
from fedkd.procedural import build_priors
from fedkd.student.training import Learner

SHAPE = (1, 6, 6)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, 4))


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_the_contrast_is_that_of_the_paper() -> None:
    here, there = torch.randn(2, 5, 3, generator=rng(0)).double()
    h, t, total = here.tolist(), there.tolist(), 0.0
    for i in range(5):
        others = sum(math.exp(cosine(h[i], h[j])) for j in range(5) if j != i)
        total -= math.log(math.exp(cosine(h[i], t[i])) / others)
    assert float(contrastive(here, there)) == pytest.approx(total / 5)


def test_images_are_moved_apart_and_asked_about_as_new_ones() -> None:
    bank = Bank()
    bank.add(
        torch.randint(90, 110, (64, *SHAPE), generator=rng(1), dtype=torch.uint8),
        torch.zeros(64, 4),
    )
    contrasted = Contrasted(bank, network(0), SHAPE, steps=20, rate=0.02, seed=0)

    def apart(images: Tensor) -> float:
        with torch.no_grad():
            x = images.float() / 255
            here = contrasted.discriminator(contrasted._features(x))
            views = contrasted.discriminator(contrasted._features(VIEW.augment(x, rng(9))))
            return float(contrastive(here, views))

    before, _ = bank.draw(32, rng(2))
    drawn = contrasted.draw(32, rng(2))
    assert drawn.images.dtype == torch.uint8
    assert apart(drawn.images) < apart(before) - 0.1
    assert float(bank.fresh(drawn.images).float().mean()) > 0.9


def test_a_student_learns_decisions_and_the_primers_logits() -> None:
    method, plan = dip_kd(soft_weight=0.3), Plan(10, 8, 5, student_batch=8)
    bank = Bank()
    images = torch.randint(0, 256, (1, *SHAPE), generator=rng(3), dtype=torch.uint8)
    bank.add(images, torch.tensor([[0.2, 0.1, 5.0, 0.3]]))
    student, primer = network(1), network(2)
    with torch.no_grad():
        own, hint = (n(images.float() / 255)[0].double() for n in (student, primer))
    hard = -float(own.log_softmax(0)[2])
    soft = float((own - hint).abs().mean())
    learner = Learner(copy.deepcopy(student), method, plan)
    loss, _ = learner.step(bank, rng(0), 0, 0.0)
    assert loss.tolist() == pytest.approx([hard] * 8, rel=1e-5)
    learner = Learner(student, method, plan)
    learner.primer = primer
    loss, _ = learner.step(bank, rng(0), 0, 0.0)
    assert loss.tolist() == pytest.approx([hard + 0.3 * soft] * 8, rel=1e-5)


def test_the_primer_is_taught_once_and_before_the_student() -> None:
    teachers = InProcess({"a": network(7)}, SHAPE, 4)
    told: list[Progress] = []
    steps: list[int] = []
    student = network(1)
    run = Distillation(
        *(student, dip_kd(contrast_steps=2, primer_steps=0.5), teachers.cards),
        *(Plan(100, 10, 40, student_batch=8), build_priors("pink"), 0, told.append),
    )
    assert run._primer is not None
    run._primer.optimizer.register_step_post_hook(lambda *_: steps.append(run.student_steps))
    drive(run.requests(), teachers.answer)
    assert steps == [0] * 20
    asked = [(p.facts["asked"], p.facts["origin"]) for p in told if p.kind == "asked"]
    assert [origin for n, origin in asked] == ["pink"] * 5 + ["contrast"] * 5
    weights = [
        torch.cat([p.flatten() for p in n.parameters()]) for n in (student, run._primer.network)
    ]
    assert not torch.equal(*weights)
    assert replace(run.plan, steps=20) == run._primer.plan
