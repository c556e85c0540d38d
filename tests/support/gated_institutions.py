"""Small institutions behind release gates in this process, and runs of the loop against them."""

import inspect
from collections.abc import Callable, Generator, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import build_release_mode
from fedkd.core.earlier_student import TeacherCards
from fedkd.loop import PAUSE, Distillation, Distilled, Plan, Progress, drive
from fedkd.methods import METHODS, Method, cudfkd, make
from fedkd.models import EmbeddingTeacher, ModuleTeacher, Teacher
from fedkd.privacy import Policy
from fedkd.procedural import Shape, build_priors
from fedkd.protocol import Answers, Ask, Card, Number, Reply, Request, Signal, as_float
from tests.support.grown_runs import earlier_student_for, put_beside

OPEN = Policy(frozenset({Signal.LOGITS, Signal.BN_GAP}), pull_back=True, class_counts=True)
TINY, FEW = (1, 4, 4), 3
"""Shape of samples, and how many classes there are."""
PUBLIC_SAMPLES, POOL = 6, 200
"""That a coordinator has where its method needs some, and where it asks about nothing else."""
Loop: TypeAlias = Generator[Request, Answers, Distilled]
Put: TypeAlias = Callable[[Request], Answers]
"""Puts a request to the institutions."""


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_known(name: str, **wishes: object) -> Method:
    """That method, with what its factory takes of these arguments."""
    known = inspect.signature(METHODS[name]).parameters
    return make(name, {key: value for key, value in wishes.items() if key in known})


def mixed(gradient: str, **arguments: object) -> Method:
    """CuDFKD with questions about samples of every source that it has."""
    own = {"bn_weight": 0.0, "latent": 8, "warm_up": 0.3, "generated": 0.7, "evolved": 0.4}
    if gradient == "student":  # the student disagrees with itself about nothing
        own["adversarial_stop"] = 0.0
    return cudfkd(gradient, **{**own, **arguments})  # type: ignore[arg-type]


def public_samples(method: Method, shape: Shape) -> Tensor | None:
    """What a coordinator would bring for that method."""
    if not method.needs.public_data:
        return None
    count = POOL if len(method.sources) == 1 else PUBLIC_SAMPLES
    return torch.randint(0, 256, (count, *shape), generator=rng(17), dtype=torch.uint8)


def linear(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, FEW))


class GatedInstitutions:
    """Institutions in this process, each behind its gate; keeps what they were asked."""

    def __init__(
        self,
        count: int = 2,
        policy: Policy = OPEN,
        *,
        embedding: bool = False,
        numbers: bool = False,
    ) -> None:
        self.gates: dict[str, ReleaseGate] = {}
        self.requests: list[Request] = []
        cards = []
        for index in range(count):
            teacher: Teacher = ModuleTeacher(linear(index), FEW)
            teacher, name = (
                EmbeddingTeacher(teacher) if embedding else teacher,
                f"institution-{index}",
            )
            card = Card(
                name,
                FEW,
                TINY,
                policy.signals & teacher.signals,
                policy.pull_back,
                policy.samples,
                class_counts=None if embedding or numbers else (3 + index, 5, 9 - index),
                numbers=tuple(Number(str(n), "", -2.0, 2.0) for n in range(numbers * FEW)),
                embedding=embedding,
            )
            cards.append(card)
            self.gates[name] = ReleaseGate(policy, build_release_mode(policy, teacher, None), card)
        self.cards = tuple(cards)

    @classmethod
    def for_method(cls, method: Method) -> "GatedInstitutions":
        """Two that have what the method asks for: classes, numbers, or an embedding."""
        if method.answers is Signal.LOGITS:
            return cls(numbers="classes" not in method.needs.tasks)
        return cls(policy=Policy(frozenset({method.answers})), embedding=True)

    def put(self, request: Request) -> Answers:
        assert request != PAUSE
        self.requests.append(request)
        each = dict.fromkeys(self.gates, request) if isinstance(request, Ask) else request
        replies = {name: self.gates[name].answer(own) for name, own in each.items()}
        return {name: reply for name, reply in replies.items() if isinstance(reply, Reply)}

    @property
    def asks(self) -> list[Ask]:
        return [request for request in self.requests if isinstance(request, Ask)]


def run(
    method: Method,
    plan: Plan,
    institutions: GatedInstitutions | None = None,
    seed: int = 0,
    put: Put | None = None,
) -> tuple[Distilled, list[Progress]]:
    """A whole run, and its events."""
    institutions = institutions or GatedInstitutions.for_method(method)
    events: list[Progress] = []
    earlier = earlier_student_for(method, linear(98), tuple(map(str, range(FEW))), TINY)
    loop = Distillation(
        *(linear(99), method, TeacherCards(earlier, institutions.cards), plan),
        build_priors("noise"),
        seed=seed,
        watch=events.append,
        public=public_samples(method, TINY),
        earlier=earlier,
    ).requests()
    return drive(loop, put_beside(earlier, put or institutions.put)), events


def by_hand(loop: Loop, put: Put) -> Distilled:
    """What `drive` does, pauses included in what is put."""
    try:
        request = next(loop)
        while True:
            request = loop.send(put(request))
    except StopIteration as stop:
        distilled: Distilled = stop.value
        return distilled


def facts(events: list[Progress], kind: str, name: str) -> list[object]:
    """That fact of every event of that kind."""
    return [event.facts[name] for event in events if event.kind == kind]


def keys(images: Tensor) -> list[bytes]:
    """A key for each image: equal pixels, equal keys."""
    return [image.numpy().tobytes() for image in as_float(images)]


def pulled_back_keys(requests: list[Request]) -> list[bytes]:
    """Of the images whose gradients were asked for, of one institution."""
    return [
        key
        for request in requests
        if isinstance(request, Mapping)
        for each in list(request.values())[:1]
        for key in keys(each.images)
    ]
