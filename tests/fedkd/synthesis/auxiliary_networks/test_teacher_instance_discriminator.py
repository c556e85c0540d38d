"""Instance discrimination by the features of one institution: CMI as its paper has it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.core.source_types import Turn
from fedkd.loop import Distillation, Plan, drive
from fedkd.methods import cmi
from fedkd.models import InProcess, ModuleTeacher, Network, build_network
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Request, Signal
from fedkd.synthesis import TeacherInstanceDiscriminator, TrainedSource
from fedkd.synthesis.auxiliary_networks.instance_discriminator import cropped, projection
from fedkd.synthesis.auxiliary_networks.teacher_instance_discriminator import (
    TrainedTeacherInstanceDiscriminator,
)
from tests.support.contexts import context_of

SHAPE, CLASSES, TAU = (1, 6, 6), 4, 0.3
SETTINGS = TeacherInstanceDiscriminator(TAU, 5, 12, width=6, rate=0.01, crop=0.25)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(seed: int, name: str = "cnn") -> Network:
    made = build_network(name, CLASSES, SHAPE, seed).eval()
    assert isinstance(made, Network)
    return made


def papers_loss(h: nn.Module, views: Tensor, whole: Tensor, now: int) -> Tensor:
    """Cross-entropy over cosines, image by image; the images are no target of any slope."""
    v, big = (F.normalize(h(f), dim=1) for f in (views, whole))
    each = []
    for i in range(len(v)):
        cosines = torch.stack([(v[i] * big[j].detach()).sum() / TAU for j in range(len(v))])
        each.append(cosines.logsumexp(0) - cosines[i])
    mean = torch.stack(each[:now]).mean()
    return mean + torch.stack(each[now:]).mean() if now < len(each) else mean


def test_its_loss_is_that_of_the_paper_on_the_teachers_features() -> None:
    how = TrainedTeacherInstanceDiscriminator(SETTINGS, 0, torch.device("cpu"))
    views, whole = torch.randn(4, 9, generator=rng(0)), torch.randn(4, 9, generator=rng(1))
    leaf = views.clone().requires_grad_()
    value = how.loss(leaf, whole, rng(2))
    assert how._head is not None
    mine = views.clone().requires_grad_()
    expected = papers_loss(how._head, mine, whole, 4)
    assert torch.allclose(value, expected, atol=1e-6)
    (slope,) = torch.autograd.grad(value, leaf)
    assert torch.allclose(slope, torch.autograd.grad(expected, mine)[0], atol=1e-6)
    how.finish(torch.empty(0))
    other, more = torch.randn(3, 9, generator=rng(3)), torch.randn(3, 9, generator=rng(4))
    order = torch.randperm(4, generator=rng(5))
    with_before = papers_loss(
        how._head, torch.cat([other, views[order]]), torch.cat([more, whole[order]]), 3
    )
    assert torch.allclose(how.loss(other, more, rng(5)), with_before, atol=1e-6)


def test_features_before_give_way_and_a_state_brings_all_back() -> None:
    how = TrainedTeacherInstanceDiscriminator(SETTINGS, 0, torch.device("cpu"))
    for value in range(5):
        how.loss(torch.full((4, 9), float(value)), torch.ones(4, 9), rng(0)).backward()
        how.stepped()
        how.finish(torch.empty(0))
    assert how._before[:, 1, 0].tolist() == [2.0] * 4 + [3.0] * 4 + [4.0] * 4
    other = TrainedTeacherInstanceDiscriminator(SETTINGS, 9, torch.device("cpu"))
    other.restore(how.state())
    views = torch.randn(4, 9, generator=rng(0))
    assert torch.equal(other.loss(views, views, rng(3)), how.loss(views, views, rng(3)))


class Recorded:
    """Teachers in this process, and all that was asked of them."""

    def __init__(self, *networks: nn.Module) -> None:
        self.teachers = InProcess({f"t{i}": n for i, n in enumerate(networks)}, SHAPE, CLASSES)
        self.requests: list[Request] = []

    def answer(self, request: Request) -> Answers:
        self.requests.append(request)
        return self.teachers.answer(request)


PLAN = Plan(64, 8, 10, student_batch=8)


def run_of(to: Recorded, **arguments: float) -> Distillation:
    method = cmi(latent=5, steps_per_batch=2, jitter=0.0, **arguments)  # type: ignore[arg-type]
    student = network(2, "mlp")
    return Distillation(student, method, to.teachers.cards, PLAN, build_priors("noise"))


def test_one_institution_is_asked_about_images_and_a_view_of_each_and_several_are_not() -> None:
    one, two = Recorded(network(7)), Recorded(network(7), network(8))
    for to in (one, two):
        drive(run_of(to).requests(), to.answer)
    asks = [r for r in one.requests if isinstance(r, Ask)]
    first, view = {Signal.LOGITS, Signal.FEATURES, Signal.BN_GAP}, {Signal.FEATURES}
    assert [set(a.signals) for a in asks] == [first, view] * (len(asks) // 2)
    assert sum(len(a.images) for a in asks) == PLAN.budget
    pulls = [r["t0"] for r in one.requests if not isinstance(r, Ask) and r]
    of_views = [Signal.FEATURES in pull.cotangents for pull in pulls]
    assert of_views == [True, False] * (len(asks) // 2)
    assert all(Signal.FEATURES not in a.signals for a in two.requests if isinstance(a, Ask))


def test_the_generator_gets_the_papers_slope_through_the_teacher() -> None:
    teacher = network(7)
    to = Recorded(teacher)
    weights = {"bn_weight": 0.0, "one_hot_weight": 0.0, "adversarial_weight": 0.0}
    run = run_of(to, **weights, contrast_weight=2.0, contrast_temperature=TAU)
    source = run._scheduler.sources["generator"]
    assert isinstance(source, TrainedSource)
    slopes, streams = list[Tensor](), list[Tensor]()
    descend, views = source._descend, source.auxiliary.views

    def descends(graph: Tensor, gradient: Tensor) -> None:
        slopes.append(gradient.clone())
        descend(graph, gradient)

    def viewed(images: Tensor, stream: torch.Generator) -> dict[int, Tensor]:
        streams.append(stream.get_state())
        return views(images, stream)

    source._descend = descends  # type: ignore[method-assign]
    source.auxiliary.views = viewed  # type: ignore[method-assign]
    drive(run.requests(), to.answer)
    ask = to.requests[0]
    assert isinstance(ask, Ask)
    x = (ask.images.float() / 255).requires_grad_()
    stream = rng(0)
    stream.set_state(streams[0])
    view = cropped(x, 0.25, stream)
    rounded = view + ((view * 255).round() / 255 - view).detach()
    h = projection(teacher.head.in_features, 256, run.seed)
    loss = 2.0 * papers_loss(h, teacher.embed(rounded), teacher.embed(x), len(x))
    (expected,) = torch.autograd.grad(loss, x)
    assert float(expected.abs().sum()) > 0
    assert torch.allclose(slopes[0], expected, atol=1e-5 * float(expected.abs().max()))


def test_the_same_term_is_had_of_a_teacher_in_this_process() -> None:
    teacher, method = network(7), cmi(latent=5, steps_per_batch=2)
    card = InProcess({"t": teacher}, SHAPE, CLASSES).cards[0]
    alone = method.for_cards([card])
    assert alone is method.alone
    assert method.for_cards([card, card]) is method
    (spec,) = (share.spec for name, share in alone.sources.items() if name == "generator")
    source = spec.build(context_of(network(2, "mlp"), SHAPE, CLASSES, seed=0))
    assert isinstance(source, TrainedSource)
    source.train_directly(Turn(8, rng(0), 0.0), ModuleTeacher(teacher, CLASSES), None)
    (auxiliary,) = source.auxiliary.parts.values()
    assert isinstance(auxiliary, TrainedTeacherInstanceDiscriminator)
    assert auxiliary._now.shape == (8, 2, teacher.head.in_features)
