"""What four papers have beside terms: students that differ, a memory, a beginning, comparisons."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.state import State
from fedkd.errors import SettingsError
from fedkd.loop import Distillation, Plan, Progress, drive
from fedkd.losses.student_terms import disagreement, distinctness
from fedkd.losses.term import Batch, class_balance
from fedkd.methods import Method, cmi, disguide, fast_dfkd, pre_dfkd
from fedkd.methods.mechanisms import Discrimination, Memory, Reuse
from fedkd.models import (
    Generator,
    InProcess,
    Latents,
    SynthesisTarget,
    build_network,
    penultimate_features,
    reinitialised,
)
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Request, Signal
from fedkd.student.training import Learner
from fedkd.synthesis.generative_replay import Remembered
from fedkd.synthesis.generator_training import Invention, vote
from fedkd.synthesis.instance_discrimination import Discriminator, cropped
from fedkd.synthesis.meta_initialisation import Common

SHAPE, CLASSES = (1, 6, 6), 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, CLASSES))


TEACHERS = InProcess({"a": network(7), "b": network(8)}, SHAPE, CLASSES)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def bank(count: int = 64) -> Bank:
    full = Bank()
    images = torch.randint(0, 256, (count, *SHAPE), generator=rng(1), dtype=torch.uint8)
    full.add(images, 3 * torch.randn(count, CLASSES, generator=rng(2)))
    return full


def heard(method: Method, plan: Plan) -> tuple[Distillation, list[Request], list[Progress]]:
    requests: list[Request] = []
    told: list[Progress] = []

    def put(request: Request) -> Answers:
        requests.append(request)
        return TEACHERS.answer(request)

    run = Distillation(
        *(network(2), method, TEACHERS.cards, plan, build_priors("noise"), 0), watch=told.append
    )
    drive(run.requests(), put)
    return run, requests, told


# --- DisGUIDE: students that disagree


def softmax(logits: list[float]) -> list[float]:
    e = [math.exp(x) for x in logits]
    return [x / sum(e) for x in e]


def disguide_of_the_paper(students: list[list[list[float]]], diversity: float) -> float:
    """L_G, image by image and class by class, of students' logits (M, B, K)."""
    beliefs = [[softmax(image) for image in student] for student in students]
    many, images, classes = len(beliefs), len(beliefs[0]), len(beliefs[0][0])
    apart, mean = 0.0, [0.0] * classes
    for b in range(images):
        for c in range(classes):
            said = [belief[b][c] for belief in beliefs]
            centre = sum(said) / many
            apart += math.sqrt(sum((x - centre) ** 2 for x in said) / (many - 1))
            mean[c] += centre / images
    return -apart / (images * classes) + diversity * sum(p * math.log(p) for p in mean)


@pytest.mark.parametrize("students", [2, 3])
def test_the_objective_of_disguide_is_that_of_the_paper(students: int) -> None:
    method = disguide(students=students)
    said = 2 * torch.randn(students, 6, CLASSES, generator=rng(3)).double()
    batch = Batch(torch.zeros(6, *SHAPE), {Signal.LOGITS: vote(said)}, said[0], students=said)
    total = sum(w(0.5) * float(term.value(batch)) for w, term in method.objective)
    assert total == pytest.approx(disguide_of_the_paper(said.tolist(), 0.2))


def test_its_generator_takes_the_gradient_of_that_objective() -> None:
    method = disguide(latent=5)
    peers = [network(4)]
    invention = Invention(method, network(2), SHAPE, 0, 8, CLASSES, peers=peers)
    before = copy.deepcopy(invention.painter)
    taken: dict[str, Tensor] = {}
    for name, p in invention.painter.named_parameters():
        p.register_post_accumulate_grad_hook(
            lambda p, name=name: taken.update({name: p.grad.clone()})
        )
    invention.rehearse(8, 0.0, rng(5))
    assert isinstance(before, Generator)
    images = before.train()(torch.randn(8, 5, generator=rng(5)))
    p = torch.stack([n(images).softmax(1) for n in (network(2), *peers)])
    mean = p.mean((0, 1))
    (-p.std(0).mean() + 0.2 * (mean * mean.log()).sum()).backward()
    for name, weight in before.named_parameters():
        assert weight.grad is not None
        assert torch.allclose(taken[name], weight.grad, atol=1e-7)
    assert float(weights(before).norm()) > 0


def test_students_are_asked_and_institutions_are_not() -> None:
    run, requests, told = heard(
        disguide(latent=8, generator_steps=3), Plan(80, 8, 10, student_batch=8)
    )
    assert len(requests) == 10
    assert all(isinstance(r, Ask) and r.signals == {Signal.LOGITS} for r in requests)
    assert (run.generator_steps, run.pulled_back) == (30, 0)
    terms = [p.facts["terms"] for p in told if p.kind == "generated"]
    assert all(t.keys() == {"disagreement", "class_balance"} for t in terms)  # type: ignore[attr-defined]


def test_a_peer_begins_elsewhere_and_learns_as_if_it_were_alone() -> None:
    plan, student = Plan(10, 8, 5, student_batch=8), network(1)
    pair = Learner(copy.deepcopy(student), disguide(), plan, seed=6)
    (peer,) = pair.peers
    assert not torch.equal(weights(peer), weights(student))
    assert torch.equal(weights(peer), weights(reinitialised(student, 7)))
    lone = Learner(copy.deepcopy(peer), replace(disguide(), peers=0), plan)
    first = Learner(copy.deepcopy(student), replace(disguide(), peers=0), plan)
    for step in range(3):
        loss, _ = pair.step(bank(), rng(step), step, 0.5)
        alone, _ = first.step(bank(), rng(step), step, 0.5)
        lone.step(bank(), rng(step), step, 0.5)
        assert torch.equal(loss, alone)
    assert torch.equal(weights(peer), weights(lone.network))
    assert torch.equal(weights(pair.network), weights(first.network))


def test_a_layer_that_cannot_begin_anew_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    with pytest.raises(SettingsError, match=r"layer '1' \(Odd\) cannot be reinitialised"):
        reinitialised(nn.Sequential(nn.Linear(2, 2), Odd()), 0)


def test_the_vote_is_the_mean_of_beliefs() -> None:
    said = torch.randn(3, 5, CLASSES, generator=rng(0)).double()
    assert torch.allclose(vote(said).exp(), said.softmax(2).mean(0))
    batch = Batch(torch.zeros(5, *SHAPE), {}, said[0])
    for term in (disagreement(), distinctness()):
        with pytest.raises(SettingsError, match="give the method"):
            term.value(batch)
    assert class_balance().needs


# --- PRE-DFKD: a memory


MEMORY = Memory(steps=1, rate=5e-3, latent_rate=0.05, balance_weight=5.0, prior_weight=1e-2)


def remembered(full: Bank, memory: Memory = MEMORY) -> Remembered:
    return Remembered(memory, 8, full, network(3).eval(), SHAPE, 0)


def test_the_loss_of_the_memory_is_that_of_the_paper() -> None:
    source = remembered(bank())
    source.decoder.eval()
    x = torch.rand(5, *SHAPE, generator=rng(0))
    mean, log_variance, noise = torch.randn(3, 5, 8, generator=rng(1)) / 2
    painted = source.decoder(mean + log_variance.mul(0.5).exp() * noise)
    pixels = sum((painted - x).abs().flatten().tolist()) / x.numel()
    said = (source.student(painted) - source.student(x)).abs().flatten().tolist()
    own = 0.0
    for m, v in zip(mean.tolist(), log_variance.tolist(), strict=True):
        own -= 0.5 * sum(1 + b - a * a - math.exp(b) for a, b in zip(m, v, strict=True)) / 5
    value = source.loss(x, mean, log_variance, noise).detach()
    assert float(value) == pytest.approx(pixels + sum(said) / len(said) + 1e-2 * own, rel=1e-5)


def test_it_learns_what_was_asked_about_once_and_paints_it_again() -> None:
    full = Bank()
    dark = torch.randint(0, 30, (64, *SHAPE), generator=rng(1), dtype=torch.uint8)
    full.add(dark, torch.zeros(64, CLASSES))
    source = remembered(full, replace(MEMORY, steps=150))
    source.draw(32, rng(4))  # learns 64 images in two batches
    taken = weights(source.decoder)
    again = source.draw(32, rng(4)).images
    assert torch.equal(weights(source.decoder), taken)  # there was nothing new
    assert not again.requires_grad
    assert float(again.mean()) < 0.2
    full.add(255 - dark, torch.zeros(64, CLASSES))
    source.draw(32, rng(4))
    assert not torch.equal(weights(source.decoder), taken)


def test_it_recalls_what_the_student_is_surer_of() -> None:
    sure = []
    for rate in (1e-9, 0.3):
        source = remembered(bank(), replace(MEMORY, latent_rate=rate, balance_weight=0.0))
        images = source._recalled(64, rng(6))
        with torch.no_grad():
            said = source.student(images)
        sure.append(float(said.softmax(1).max(1).values.mean()))
    assert sure[1] > sure[0]


def test_what_it_paints_is_asked_about_for_its_share_and_only_for_answers() -> None:
    method = pre_dfkd(latent=8, replayed=0.5)
    _, requests, told = heard(method, Plan(400, 10, 10, student_batch=8))
    asks = [r for r in requests if isinstance(r, Ask)]
    origins = [p.facts["origin"] for p in told if p.kind == "asked"]
    assert 10 < origins.count("memory") < 30
    assert set(origins) == {"memory", "generator"}
    assert [ask.exact for ask in asks] == [origin == "generator" for origin in origins]
    assert len(requests) - len(asks) == origins.count("generator")


def test_a_bank_that_forgets_hands_on_what_it_has() -> None:
    small = Bank(capacity=10)
    images = torch.arange(16, dtype=torch.uint8).view(16, 1, 1, 1).expand(16, *SHAPE)
    for batch in images.split(4):
        small.add(batch, torch.zeros(len(batch), CLASSES))
    assert small.added == 16
    assert small.newest(3)[:, 0, 0, 0].tolist() == [13, 14, 15]
    assert small.newest(99)[:, 0, 0, 0].tolist() == list(range(6, 16))
    assert len(small.newest(0)) == len(Bank().newest(0)) == 0


# --- Fast-DFKD: where batches begin


def generator(seed: int) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(5, SHAPE, 4)


@pytest.mark.parametrize("reptile", [None, 0.5])
def test_the_common_generator_takes_the_step_of_the_paper(reptile: float | None) -> None:
    painting = generator(0)
    common = Common(Reuse(0.01, 0.02, reptile), painting, (0.5, 0.999))
    meta = copy.deepcopy(painting)
    expected = torch.optim.Adam(meta.parameters(), 0.01, (0.5, 0.999))
    inner = torch.optim.SGD(painting.parameters(), 0.1)
    for batch in range(2):
        common.begin()
        assert torch.equal(weights(painting), weights(meta))
        slopes = [torch.zeros_like(p) for p in meta.parameters()]
        for step in range(3):
            inner.zero_grad()
            painting(torch.randn(4, 5, generator=rng(10 * batch + step))).square().sum().backward()
            for slope, p in zip(slopes, painting.parameters(), strict=True):
                assert p.grad is not None
                slope += p.grad
            common.note()
            inner.step()
        common.learn()
        ends = zip(meta.parameters(), slopes, painting.parameters(), strict=True)
        for p, slope, end in ends:
            p.grad = slope if reptile is None else 0.5 * (p.detach() - end.detach())
        expected.step()
        assert torch.allclose(weights(common.network), weights(meta), atol=1e-7)


def test_a_batch_begins_where_the_common_generator_stands_and_its_latents_anew() -> None:
    method = fast_dfkd(latent=5, bn_weight=0.0, epoch=2)
    invention = Invention(method, network(2), SHAPE, 0, 4, CLASSES)
    invention.begin(rng(0))
    assert isinstance(invention.painter, Latents)
    assert invention._common is not None
    begun = weights(invention._common.network)
    assert torch.equal(weights(invention.painter.generator), begun)
    latents = invention.painter.latents.detach().clone()
    torch.autograd.backward(invention.source.draw(4, rng(1)).images.sum())
    invention.optimizer.step()
    moved = (invention.painter.latents - latents).abs().max()
    assert float(moved.detach()) == pytest.approx(0.01, rel=1e-3)  # the latents' own rate
    invention._common.note()
    assert torch.equal(weights(invention._common.network), begun)
    invention._finish(torch.zeros(4, *SHAPE, dtype=torch.uint8))
    invention.begin(rng(2))
    assert not torch.equal(weights(invention._common.network), begun)
    assert torch.equal(weights(invention.painter.generator), weights(invention._common.network))
    assert not torch.equal(invention.painter.latents, latents)


def test_the_common_generator_learns_once_in_an_epoch() -> None:
    steps: list[int] = []
    method = fast_dfkd(latent=5, bn_weight=0.0, epoch=4)
    run = Distillation(
        *(
            network(2),
            method,
            TEACHERS.cards,
            Plan(88, 8, 10, student_batch=8),
            build_priors("noise"),
        )
    )
    assert run._inventors.invention is not None
    assert run._inventors.invention._common is not None
    optimizer = run._inventors.invention._common.optimizer
    optimizer.register_step_post_hook(lambda *_: steps.append(run.generator_steps))
    drive(run.requests(), TEACHERS.answer)
    assert steps == [3, 7]  # after the fourth and the eighth, before they are counted


# --- CMI: images told apart


HOW = Discrimination(temperature=0.3, negatives=5, capacity=12, width=6, rate=0.01, crop=0.25)


def test_distinctness_is_that_of_the_paper() -> None:
    student = build_network("cnn", CLASSES, SHAPE, 0).eval()
    how = Discriminator(replace(HOW, crop=1.0), student, SHAPE, 0)  # a view is the image itself
    x = torch.rand(4, *SHAPE, generator=rng(0))
    seen = F.normalize(how.head(penultimate_features(student, x)), dim=1).tolist()

    def surprise(seen: list[list[float]], i: int) -> float:
        near = [sum(a * b for a, b in zip(seen[i], v, strict=True)) / 0.3 for v in seen]
        return math.log(sum(math.exp(n) for n in near)) - near[i]

    value = float(how.distinctness(x, rng(1)).detach())
    assert value == pytest.approx(sum(surprise(seen, i) for i in range(4)) / 4, rel=1e-4)
    before = torch.randint(0, 256, (5, *SHAPE), generator=rng(2), dtype=torch.uint8)
    how.keep(before)
    order = torch.randperm(5, generator=rng(1))
    both = torch.cat([x, before[order].float() / 255])
    seen = F.normalize(how.head(penultimate_features(student, both)), dim=1).tolist()
    each = [surprise(seen, i) for i in range(9)]
    value = float(how.distinctness(x, rng(1)).detach())
    assert value == pytest.approx(sum(each[:4]) / 4 + sum(each[4:]) / 5, rel=1e-4)


def test_slopes_pass_through_views_to_images_and_to_the_head() -> None:
    student = build_network("cnn", CLASSES, SHAPE, 0).eval()
    how = Discriminator(HOW, student, SHAPE, 0)
    x = torch.rand(4, *SHAPE, generator=rng(0)).requires_grad_()
    how.distinctness(x, rng(1)).backward()
    mine = torch.rand(4, *SHAPE, generator=rng(0)).requires_grad_()
    stream = rng(1)
    torch.randperm(0, generator=stream)
    views = F.normalize(how.head(student.embed(cropped(mine, 0.25, stream))), dim=1)
    whole = F.normalize(how.head(student.embed(mine)), dim=1).detach()
    near = (views @ whole.T / 0.3).log_softmax(1)
    (slope,) = torch.autograd.grad(-near.diagonal().mean(), mine)
    assert x.grad is not None
    assert torch.allclose(x.grad, slope, atol=1e-7)
    assert float(slope.abs().sum()) > 0
    before = weights(how.head)
    how.learn()
    assert not torch.equal(weights(how.head), before)
    assert all(p.grad is None for p in how.head.parameters())


def test_the_oldest_images_give_way_and_a_sample_is_compared() -> None:
    how = Discriminator(HOW, network(1), SHAPE, 0)
    for value in range(5):
        how.keep(torch.full((4, *SHAPE), value, dtype=torch.uint8))
    assert how._before[:, 0, 0, 0].tolist() == [2] * 4 + [3] * 4 + [4] * 4
    other = Discriminator(HOW, network(1), SHAPE, 9)
    other.restore(State(how.state().tensors, how.state().numbers))
    x = torch.rand(4, *SHAPE, generator=rng(0))
    assert torch.equal(other.distinctness(x, rng(3)), how.distinctness(x, rng(3)))


def test_a_view_is_a_part_of_its_own_image() -> None:
    x = torch.rand(50, 2, 8, 8, generator=rng(0))
    assert torch.allclose(cropped(x, 1.0, rng(1)), x, atol=1e-5)
    ramp = torch.linspace(0, 1, 8).expand(50, 1, 8, 8)
    seen = cropped(ramp, 0.25, rng(1))[:, 0, 0]
    span = seen[:, -1] - seen[:, 0]
    assert float(span.min()) > 0.4  # half a side at least
    assert float(span.max()) <= 1.0
    assert float(span.std()) > 0.05
    level = torch.arange(50.0).view(50, 1, 1, 1).expand(50, 1, 8, 8)
    assert torch.allclose(cropped(level, 0.25, rng(2)), level)


def test_the_images_of_a_batchs_last_question_are_remembered() -> None:
    method = cmi(latent=5, bn_weight=0.0, epoch=3, jitter=0.0)
    run, requests, _ = heard(method, Plan(56, 8, 10, student_batch=8))
    asks = [r for r in requests if isinstance(r, Ask)]
    assert len(asks) == 7
    assert run._inventors.invention is not None
    assert run._inventors.invention._discriminator is not None
    expected = torch.cat([asks[2].images, asks[5].images])
    assert torch.equal(run._inventors.invention._discriminator._before, expected)
    assert all(a.signals == {Signal.LOGITS} for a in asks)


def test_contrast_makes_a_batch_more_distinct() -> None:
    student = build_network("cnn", CLASSES, SHAPE, 0).eval()
    pixels = (0.5 + 0.02 * torch.randn(16, *SHAPE, generator=rng(0))).requires_grad_()
    how = Discriminator(HOW, student, SHAPE, 0)
    optimizer = torch.optim.Adam([pixels], 0.02)
    values = []
    for step in range(40):
        optimizer.zero_grad()
        value = how.distinctness(pixels, rng(step))
        value.backward()
        how.learn()
        optimizer.step()
        values.append(float(value.detach()))
    assert sum(values[-5:]) < sum(values[:5]) - 0.5


# --- what makes no sense


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peers": -1}, "-1 peers"),
        ({"shares": {"memory": lambda p: 1.0}}, "nothing to remember by"),
        (
            {"reuse": Reuse(0.1, 0.1), "canvas": SynthesisTarget()},
            "reuse is of latents; canvas is network",
        ),
    ],
)
def test_a_method_without_what_it_uses_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        replace(fast_dfkd(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "made",
    [
        lambda: Memory(0, 0.1, 0.1, 1.0, 1.0),
        lambda: Memory(1, math.inf, 0.1, 1.0, 1.0),
        lambda: Memory(1, 0.1, 0.1, -1.0, 1.0),
        lambda: Reuse(0.0, 0.1),
        lambda: Reuse(0.1, 0.1, -67.0),
        lambda: replace(HOW, crop=0.0),
        lambda: replace(HOW, width=0),
        lambda: replace(HOW, temperature=math.nan),
    ],
)
def test_numbers_out_of_range_are_refused(made: object) -> None:
    with pytest.raises(SettingsError, match="cannot be; see"):
        made()  # type: ignore[operator]
