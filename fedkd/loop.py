"""THE loop: one for every method. It asks by ``yield`` and knows no network, no data, no teacher.

    loop = distil(student, cudfkd(), cards, Plan(budget=12_800), priors, seed=0)
    request = next(loop)                      # an Ask, or PullBacks by institution
    request = loop.send(answers)              # replies by institution ... until StopIteration

One round asks about one batch, lets whoever invented it learn from that, and takes the student
steps that are due. Everything the loop does is decided by its arguments, the answers and the
seed: the same three give the same student, bit for bit on one machine. `Distillation` is the same
loop for whoever wants to set it down between two rounds and take it up again.
"""

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fedkd.bank import Bank
from fedkd.contrast import Contrasted
from fedkd.ensemble import Fusion, fusion_of
from fedkd.errors import QuorumLost, SettingsError
from fedkd.invention import Heard, Invention
from fedkd.labels import Labels, check_outputs, common_shape, labels_of
from fedkd.learner import Learner
from fedkd.methods.method import Method
from fedkd.plan import Distilled, Plan, Progress, Watch
from fedkd.priors import Prior
from fedkd.signals import Answers, Ask, Card, Request, Signal, as_float
from fedkd.sources import (
    Drawn,
    Evolved,
    PriorChoice,
    Source,
    class_entropy,
    to_bytes,
)
from fedkd.state import Part, State, gather, scatter

__all__ = ["PAUSE", "Distillation", "Distilled", "Plan", "Progress", "Watch", "distil", "drive"]

PAUSE: Request = {}
"""A question to nobody: a breath between student steps, for whoever drives the loop."""
ATTEMPTS = 8
"""Draws of a batch before a source is taken to have nothing new to ask."""
COUNTED = ("asked", "pulled_back", "student_steps", "generator_steps", "_profile")
"""What a run counts as it goes."""


def distil(
    student: nn.Module,
    method: Method,
    cards: Sequence[Card],
    plan: Plan,
    priors: Mapping[str, Prior],
    *,
    seed: int = 0,
    watch: Watch = lambda progress: None,
) -> Generator[Request, Answers, Distilled]:
    """Train ``student`` on what the institutions behind ``cards`` answer.

    Args:
        student: (B, C, H, W) in [0, 1] -> (B, K), K classes in the order of `Labels.of(cards)`;
            trained in place.
        method: the paper.
        cards: of the institutions; they agree on the shape, and each has classes of its own.
            Read at every question: a caller may add those who join before it sends their answers.
        plan: how much.
        priors: procedural images, by name.
        seed: of everything random in the loop.
        watch: is told of progress; changes nothing.

    Yields:
        What to ask. Send it the answers; whoever refused or was lost is absent from them.

    Raises:
        SettingsError: institutions disagree, or a rule or method asks for what they keep.
        QuorumLost: nobody answered a question.
    """
    run = Distillation(student, method, cards, plan, priors, seed, watch)
    return (yield from run.requests())


def drive(
    loop: Generator[Request, Answers, Distilled], answer: Callable[[Request], Answers]
) -> Distilled:
    """Run a loop to its end; ``answer`` puts each request to the institutions."""
    try:
        request = next(loop)
        while True:
            request = loop.send(answer(request) if request != PAUSE else {})
    except StopIteration as stop:
        distilled: Distilled = stop.value
        return distilled


@dataclass(eq=False)
class Distillation:
    """One run: the arguments of `distil`, and all that came of them so far.

    Attributes:
        rest: is called between two rounds, and between two slices of student steps; there, and
            nowhere else, `state` is all of the run.
    """

    student: nn.Module
    method: Method
    cards: Sequence[Card]
    plan: Plan
    priors: Mapping[str, Prior]
    seed: int = 0
    watch: Watch = lambda progress: None
    rest: Callable[[], None] = lambda: None
    asked: int = 0
    pulled_back: int = 0
    student_steps: int = 0
    generator_steps: int = 0
    _profile: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.method.check(list(self.cards))
        self.shape = common_shape(self.cards)
        check_outputs(self.student, self.shape, self.labels)
        self.rng = torch.Generator().manual_seed(self.seed)
        self.bank = Bank(self.plan.capacity)
        self._classes = torch.zeros(len(self.labels.names), dtype=torch.long)
        self._learner = Learner(self.student, self.method, self.plan)
        self._parts: dict[str, Part] = {
            "student": self.student,
            "optimizer": self._learner.optimizer,
            "rng": self.rng,
            "bank": self.bank,
        }
        self.sources = self._sources()

    def requests(self) -> Generator[Request, Answers, Distilled]:
        """The run, from where it stands to its end; see `distil`."""
        plan = self.plan
        first = self.method.student_from * plan.budget
        while self.asked < plan.budget:
            self.rest()
            yield from self.question()
            self._prime()
            taught = max(self.asked - first, 0.0)
            self.learn(until=plan.asking * taught / (plan.budget - first))
        while self.student_steps < plan.steps:
            self.rest()
            yield PAUSE
            self.learn(until=self.progress + max(0.01, 1 / plan.steps))
        self.student.eval()
        return Distilled(
            *(self.student, self.bank, self.asked, self.pulled_back),
            *(self.student_steps, self.generator_steps),
        )

    def state(self) -> State:
        """All that the run has come to; whole only while it rests."""
        own = {name: getattr(self, name) for name in COUNTED}
        return gather(self._parts, {**own, "classes": self._classes.tolist()})

    def restore(self, state: State) -> None:
        """Stand where another run of the same arguments stood; before `requests` is called.

        Raises:
            DataError: the state is of a run with other arguments.
        """
        numbers = scatter(state, self._parts)
        for name in COUNTED:
            setattr(self, name, numbers[name])
        self._classes = torch.tensor(numbers["classes"])
        if self._primer and self._primed:
            self._learner.primer = self._primer.network.eval()

    @property
    def labels(self) -> Labels:
        """The classes of whoever takes part by now; which they are never changes in a run."""
        return labels_of(tuple(self.cards))

    @property
    def fusion(self) -> Fusion:
        """Of whoever takes part by now."""
        return fusion_of(self.plan.rule, tuple(self.cards))

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.student_steps / self.plan.steps if self.plan.steps else 0.0

    def question(self) -> Generator[Request, Answers, None]:
        """Ask about one batch; whoever invented it learns from the answers."""
        source, drawn, images = self._invent()
        trains = drawn.images.requires_grad
        signals = self.method.needs if trains else frozenset({Signal.LOGITS})
        answers = yield Ask(images, signals, exact=trains)
        self.asked += len(images)
        if not answers:
            raise QuorumLost("nobody answered a question; bring institutions back, or ask less")
        with torch.no_grad():
            target = self.fusion.of(answers)[Signal.LOGITS]  # (B, K)
            selected = self.method.selection(target) if self.method.selection else None
        self.bank.add(images, target, selected)
        source.learn(drawn.origin, target)
        self._note_question(drawn.origin, images, target, answers)
        if trains:
            yield from self._improve(
                Heard(drawn, images, answers, selected, self.labels, self.fusion, self.progress)
            )

    @property
    def _primed(self) -> bool:
        """Whether there is a primer, and its time has come."""
        share = self.method.student_from
        return self._primer is not None and self.asked / self.plan.budget >= share

    def _prime(self) -> None:
        """Teach the primer, in one go between two rests, as soon as its time has come."""
        if self._primer is None or not self._primed or self._learner.primer:
            return
        for step in range(self._primer.plan.steps):
            self._primer.step(self.bank, self.rng, step, step / self._primer.plan.steps)
        self._primer.network.eval()
        self._learner.primer = self._primer.network

    def learn(self, until: float) -> None:
        """Student steps until this share of them is done."""
        while self.student_steps < min(round(until * self.plan.steps), self.plan.steps):
            self._student_step()

    def _student_step(self) -> None:
        loss, weight = self._learner.step(self.bank, self.rng, self.student_steps, self.progress)
        self.student_steps += 1
        if self.student_steps % max(1, self.plan.steps // 200) == 0:
            self._note_step(loss, weight)

    def _improve(self, heard: Heard) -> Generator[Request, Answers, None]:
        """One step of the generator behind these images."""
        if self._invention is None:
            return
        done = yield from self._invention.improve(heard, self.generator_steps, self.rng)
        self.pulled_back += done.pulled_back
        self.asked += done.asked
        self._note_generated(1, done.terms)
        if self.generator_steps % self.method.epoch == 0:
            self._invention.begin(self.rng)

    def _note_generated(self, steps: int, terms: Mapping[str, float]) -> None:
        self.generator_steps += steps
        self._tell("generated", step=self.generator_steps, terms=dict(terms))

    def _invent(self) -> tuple[Source, Drawn, Tensor]:
        """Images never asked about before, with their graph where they have one."""
        learning = self.asked < self.method.generator_until * self.plan.budget
        cost = 1 + (self.method.gradient.questions if self.method.trains and learning else 0)
        count = min(self.plan.batch, (self.plan.budget - self.asked) // cost)
        if count == 0:  # what is left does not pay for a generator step
            return self._draw_new(self.sources["prior"], self.plan.budget - self.asked)
        source = self._choose_source()
        if self._invention and source is self._invention.source:
            self._invention.source.learning = learning and not self.method.rehearsals
            if learning and self.method.rehearsals:
                terms = self._invention.rehearse(count, self.progress, self.rng)
                self._note_generated(self.method.rehearsals, terms)
        return self._draw_new(source, count)

    def _draw_new(self, source: Source, count: int) -> tuple[Source, Drawn, Tensor]:
        for _ in range(ATTEMPTS):
            drawn = source.draw(count, self.rng)
            images = to_bytes(drawn.images)
            fresh = self.bank.fresh(images)
            if bool(fresh.any()):
                return source, drawn.only(fresh), images[fresh]
        raise SettingsError(
            f"source {drawn.origin} drew only images that were asked about before; "
            "name more priors, or ask for fewer samples"
        )

    def _choose_source(self) -> Source:
        names = list(self.method.shares)
        shares = torch.tensor([self.method.shares[n](self.asked / self.plan.budget) for n in names])
        return self.sources[names[int(torch.multinomial(shares, 1, generator=self.rng))]]

    def _sources(self) -> dict[str, Source]:
        self._prior = self._parts["prior"] = PriorChoice(self.priors, self.shape)
        sources: dict[str, Source] = {
            "prior": self._prior,
            "evolution": Evolved(self.bank, self._prior, self._difficulty),
        }
        self._primer: Learner | None = None
        if primer := self.method.primer:
            plan = replace(self.plan, steps=max(1, round(primer.steps * self.plan.steps)))
            self._primer = Learner(copy.deepcopy(self.student), self.method, plan)
            contrast = sources["contrast"] = Contrasted(
                *(self.bank, self._primer.network, self.shape),
                *(primer.contrast_steps, primer.contrast_rate, self.seed),
            )
            self._parts |= {"primer": self._primer.network}
            self._parts |= {"discriminator": contrast.discriminator}
        self._invention: Invention | None = None
        if self.method.trains:
            self._invention = Invention(
                *(self.method, self.student, self.shape, self.seed),
                *(self.plan.batch, len(self.labels.names)),
            )
            self._invention.begin(self.rng)
            self._parts |= self._invention.parts
            sources["generator"] = self._invention.source
        return sources

    @torch.no_grad()
    def _difficulty(self, images: Tensor, targets: Tensor) -> Tensor:
        """The student's loss on each image, (B,)."""
        self.student.eval()
        return self.method.imitation(self.student(as_float(images)), targets)

    def _note_question(self, origin: str, images: Tensor, target: Tensor, answers: Answers) -> None:
        """Record the question, and how far the student is from each institution on its classes."""
        with torch.no_grad():
            self.student.eval()
            own = self.student(as_float(images))  # (B, K)
        labels = self.labels  # found among all cards, so once and not for each of them
        for name, reply in answers.items():
            said = reply.signals[Signal.LOGITS].float()  # (B, K_i)
            each = self.method.imitation(labels.own(name, own), said)
            self._profile[name] = float(each.mean())
        self._classes += target.argmax(1).bincount(minlength=target.shape[1])
        self._tell(
            "asked",
            origin=origin,
            count=len(images),
            class_entropy=self._prior.class_entropy,
            entropy=class_entropy([self._classes]),
        )

    def _note_step(self, loss: Tensor, weight: Tensor) -> None:
        self._tell(
            "trained",
            step=self.student_steps,
            loss=float((weight * loss).mean()),
            difficulty=float(loss.mean()),
            weight=float(weight.mean()),
            pace=self.method.curriculum.pace(self.progress),
            hardness=self.method.hardness(self.progress),
            difficulty_by_institution=dict(self._profile),
        )

    def _tell(self, kind: str, **facts: object) -> None:
        self.watch(Progress(kind, {"asked": self.asked, "done": self.progress, **facts}))
