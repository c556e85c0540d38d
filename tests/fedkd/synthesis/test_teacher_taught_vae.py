"""Generative replay by the answers of one institution: the auto-encoder that PRE-DFKD trains."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.source_types import Proposal, Turn
from fedkd.loop import Distillation, Plan, Progress, drive
from fedkd.methods import pre_dfkd
from fedkd.models import InProcess, ModuleTeacher
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Request
from fedkd.synthesis import TeacherReplay
from fedkd.synthesis.generative_replay.teacher_taught_vae import TeacherReplayedSamples
from tests.support.contexts import answered_by, context_of, drained

SHAPE, CLASSES = (1, 6, 6), 4
SETTINGS = TeacherReplay(
    8, steps=1, rate=5e-3, latent_rate=0.05, balance_weight=5.0, prior_weight=1e-2
)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def bank_of(teacher: nn.Module, count: int = 32) -> Bank:
    full = Bank()
    images = torch.randint(0, 256, (count, *SHAPE), generator=rng(1), dtype=torch.uint8)
    with torch.no_grad():
        full.add(images, teacher(images / 255.0))
    return full


def replayed(teacher: nn.Module, direct: bool, **changes: float) -> TeacherReplayedSamples:
    context = context_of(
        network(3).eval(),
        SHAPE,
        CLASSES,
        bank=bank_of(teacher),
        teacher=ModuleTeacher(teacher, CLASSES) if direct else None,
    )
    return context.part(replace(SETTINGS, **changes))  # type: ignore[arg-type]


def papers_memory_loss(
    source: TeacherReplayedSamples, teacher: nn.Module, x: Tensor, noise: Tensor
) -> Tensor:
    """Pixels and the teacher's logits, a mean of absolute differences each, and the prior."""
    mean, log_variance = source.encoder(x)
    drawn = source.decoder(mean + noise * torch.exp(log_variance / 2))
    rounded = drawn + ((drawn * 255).round() / 255 - drawn).detach()
    logits = (teacher(rounded) - teacher(x)).abs().sum() / (len(x) * CLASSES)
    pixels = (drawn - x).abs().sum() / x.numel()
    each = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)
    return pixels + logits + 1e-2 * each.mean()


def gradients(source: TeacherReplayedSamples) -> list[Tensor]:
    weights = [*source.encoder.parameters(), *source.decoder.parameters()]
    return [torch.zeros_like(w) if w.grad is None else w.grad.clone() for w in weights]


@pytest.mark.parametrize("direct", [False, True])
def test_the_auto_encoder_gets_the_papers_slope_through_the_teacher(direct: bool) -> None:
    teacher = network(7)
    source = replayed(teacher, direct)
    twin = replayed(teacher, direct)
    found: list[list[Tensor]] = []
    states: list[Tensor] = []
    decode = source._decoded

    def decoded(x: Tensor, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        states.append(stream.get_state())
        images.append(x)
        return decode(x, stream)

    images: list[Tensor] = []
    source._decoded = decoded  # type: ignore[method-assign]
    source.optimizer.register_step_pre_hook(lambda *_: found.append(gradients(source)))
    proposal = source.propose(Turn(8, rng(5), 0.0))
    assert proposal is not None
    if not direct:
        teachers = InProcess({"t": teacher}, SHAPE, CLASSES)
        drained(source.learn(answered_by(teachers, proposal)), teachers)
    assert len(images[0]) == 16
    stream = rng(0)
    stream.set_state(states[0])
    twin.encoder.train()
    twin.decoder.train()
    noise = torch.randn(16, 8, generator=stream)
    papers_memory_loss(twin, teacher, images[0], noise).backward()
    expected = gradients(twin)
    scale = max(float(g.abs().max()) for g in expected)
    # In this process nothing is rounded to bytes.
    near = 0.02 if direct else 1e-4
    for mine, papers in zip(found[0], expected, strict=True):
        assert torch.allclose(mine, papers, atol=near * scale)


def test_latents_take_one_step_towards_what_the_teacher_is_sure_of() -> None:
    teacher = network(7)
    teachers = InProcess({"t": teacher}, SHAPE, CLASSES)
    source = replayed(teacher, False)
    twin = replayed(teacher, False)
    proposal = source.propose(Turn(8, rng(5), 0.0))
    assert proposal is not None
    requests = drained(source.learn(answered_by(teachers, proposal)), teachers)
    twin.decoder.eval()
    z = torch.randn(8, 8, generator=rng(5)).requires_grad_()
    shown = twin.decoder(z)
    shown = shown + ((shown * 255).round() / 255 - shown).detach()
    p = teacher(shown).softmax(1)
    sure = -p.max(1).values.log().mean()
    balance = (p.mean(0) * p.mean(0).log()).sum()
    moments = (z.mean(0) ** 2).mean() + ((z.var(0) - 1) ** 2).mean()
    (slope,) = torch.autograd.grad(sure + 5.0 * balance + moments, z)
    expected = z.detach() - 0.05 * slope / (slope.abs() + 1e-8)  # the first step of Adam
    (further,) = [r for r in requests if isinstance(r, Proposal)]
    with torch.no_grad():
        drawn = twin.decoder(expected)
    assert float((further.images / 255.0 - drawn).abs().max()) < 0.51 / 255


def run_with(count: int, **arguments: float) -> tuple[list[str], list[Request], Distillation]:
    teachers = InProcess({f"t{i}": network(7 + i) for i in range(count)}, SHAPE, CLASSES)
    requests, events = list[Request](), list[Progress]()

    def put(request: Request) -> Answers:
        requests.append(request)
        return teachers.answer(request)

    method = pre_dfkd(latent=8, replayed=0.5, **arguments)  # type: ignore[arg-type]
    plan = Plan(400, 10, 10, student_batch=8)
    run = Distillation(
        *(network(2), method, teachers.cards, plan, build_priors("noise"), 0), watch=events.append
    )
    drive(run.requests(), put)
    return [str(p.facts["origin"]) for p in events if p.kind == "asked"], requests, run


def test_one_institution_teaches_the_memory_within_the_budget_and_several_do_not() -> None:
    origins, requests, run = run_with(1)
    pulls = [r for r in requests if not isinstance(r, Ask) and r]
    decoded = sum(isinstance(r, Ask) for r in requests) - len(origins)
    # Pulled back are what the generator drew, latents as they were drawn, and what was decoded.
    turns = len(pulls) - origins.count("generator") - decoded
    assert decoded > 5
    assert 2 * turns - 1 <= origins.count("replay") <= 2 * turns
    assert 380 < run.asked <= 400
    origins, requests, _ = run_with(2)
    pulls = [r for r in requests if not isinstance(r, Ask) and r]
    assert len(pulls) == origins.count("generator")
    assert origins.count("replay") > 0


def test_one_that_was_set_back_goes_on_alike() -> None:
    teacher = network(7)
    one, other = replayed(teacher, True), replayed(teacher, True)
    one.propose(Turn(8, rng(4), 0.0))
    other.restore(one.state())
    drawn = [s.propose(Turn(8, rng(5), 0.0)) for s in (one, other)]
    assert drawn[0] is not None
    assert drawn[1] is not None
    assert torch.equal(drawn[0].images, drawn[1].images)
