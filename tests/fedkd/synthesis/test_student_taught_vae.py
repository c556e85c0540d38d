"""Generative replay: an auto-encoder of what was asked about, as PRE-DFKD has it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.source_types import Turn
from fedkd.errors import SettingsError
from fedkd.loop import Distillation, Plan, Progress, drive
from fedkd.methods import pre_dfkd
from fedkd.models import InProcess
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Request
from fedkd.synthesis import GenerativeReplay
from fedkd.synthesis.generative_replay.student_taught_vae import ReplayedSamples
from tests.support.contexts import context_of

SHAPE, CLASSES = (1, 6, 6), 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


SETTINGS = GenerativeReplay(
    8, steps=1, rate=5e-3, latent_rate=0.05, balance_weight=5.0, prior_weight=1e-2
)


def bank(count: int = 64) -> Bank:
    full = Bank()
    images = torch.randint(0, 256, (count, *SHAPE), generator=rng(1), dtype=torch.uint8)
    full.add(images, 3 * torch.randn(count, CLASSES, generator=rng(2)))
    return full


def replayed(full: Bank, settings: GenerativeReplay = SETTINGS) -> ReplayedSamples:
    return context_of(network(3).eval(), SHAPE, CLASSES, bank=full).part(settings)


def drawn(source: ReplayedSamples, count: int, seed: int) -> Tensor:
    proposal = source.propose(Turn(count, rng(seed), 0.0))
    assert proposal is not None
    assert proposal.origin == "replay"
    return proposal.images


def test_the_loss_of_the_auto_encoder_is_that_of_the_paper() -> None:
    source = replayed(bank())
    source.decoder.eval()
    x = torch.rand(5, *SHAPE, generator=rng(0))
    mean, log_variance, noise = torch.randn(3, 5, 8, generator=rng(1)) / 2
    decoded = source.decoder(mean + log_variance.mul(0.5).exp() * noise)
    pixels = sum((decoded - x).abs().flatten().tolist()) / x.numel()
    answers = (source.student(decoded) - source.student(x)).abs().flatten().tolist()
    own = 0.0
    for m, v in zip(mean.tolist(), log_variance.tolist(), strict=True):
        own -= 0.5 * sum(1 + b - a * a - math.exp(b) for a, b in zip(m, v, strict=True)) / 5
    value = source.loss(x, mean, log_variance, noise).detach()
    assert float(value) == pytest.approx(
        pixels + sum(answers) / len(answers) + 1e-2 * own, rel=1e-5
    )


def test_it_learns_what_was_asked_about_once_and_draws_it_again() -> None:
    full = Bank()
    dark = torch.randint(0, 30, (64, *SHAPE), generator=rng(1), dtype=torch.uint8)
    full.add(dark, torch.zeros(64, CLASSES))
    source = replayed(full, replace(SETTINGS, steps=150))
    drawn(source, 32, 4)  # learns 64 images in two batches
    taken = weights(source.decoder)
    again = drawn(source, 32, 4)
    assert torch.equal(weights(source.decoder), taken)  # there was nothing new
    assert not again.requires_grad
    assert float(again.mean()) < 0.2
    full.add(255 - dark, torch.zeros(64, CLASSES))
    drawn(source, 32, 4)
    assert not torch.equal(weights(source.decoder), taken)


def test_it_replays_what_the_student_is_surer_of() -> None:
    sure = []
    for rate in (1e-9, 0.3):
        source = replayed(bank(), replace(SETTINGS, latent_rate=rate, balance_weight=0.0))
        images = source._replayed(64, rng(6))
        with torch.no_grad():
            logits = source.student(images)
        sure.append(float(logits.softmax(1).max(1).values.mean()))
    assert sure[1] > sure[0]


def test_one_that_was_set_back_goes_on_alike_and_learns_nothing_twice() -> None:
    full = bank()
    one, other = replayed(full), replayed(full)
    drawn(one, 32, 4)
    other.restore(one.state())
    before = weights(other.encoder)
    assert torch.equal(drawn(one, 8, 5), drawn(other, 8, 5))
    assert torch.equal(weights(other.encoder), before)
    full.add(torch.zeros(1, *SHAPE, dtype=torch.uint8), torch.zeros(1, CLASSES))
    assert torch.equal(drawn(one, 8, 6), drawn(other, 8, 6))
    assert not torch.equal(weights(other.encoder), before)


def test_what_it_draws_is_asked_about_for_its_share_and_only_for_answers() -> None:
    teachers = InProcess({"a": network(7), "b": network(8)}, SHAPE, CLASSES)
    method, plan = pre_dfkd(latent=8, replayed=0.5), Plan(400, 10, 10, student_batch=8)
    requests: list[Request] = []
    events: list[Progress] = []

    def put(request: Request) -> Answers:
        requests.append(request)
        return teachers.answer(request)

    run = Distillation(
        *(network(2), method, teachers.cards, plan, build_priors("noise"), 0), watch=events.append
    )
    drive(run.requests(), put)
    asks = [r for r in requests if isinstance(r, Ask)]
    origins = [p.facts["origin"] for p in events if p.kind == "asked"]
    assert 10 < origins.count("replay") < 30
    assert set(origins) == {"replay", "generator"}
    assert [ask.exact for ask in asks] == [origin == "generator" for origin in origins]
    assert len(requests) - len(asks) == origins.count("generator")


@pytest.mark.parametrize(
    "values",
    [
        {"latent": 0},
        {"steps": 0},
        {"rate": math.inf},
        {"latent_rate": 0.0},
        {"balance_weight": -1.0},
        {"prior_weight": math.nan},
    ],
)
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"GenerativeReplay.* is out of range; see its doc"):
        replace(SETTINGS, **values)  # type: ignore[arg-type]


def test_rows_of_a_table_are_refused_before_anything_is_asked() -> None:
    student = nn.Sequential(nn.Flatten(), nn.Linear(12, CLASSES))
    with pytest.raises(SettingsError, match="choose another method for rows of a table"):
        SETTINGS.build(context_of(student, (1, 1, 12), CLASSES))
