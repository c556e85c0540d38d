"""THE loop: one for every method. It asks by ``yield`` and knows no network, no data, no teacher.

    loop = distil(student, cudfkd(), cards, Plan(budget=12_800), priors, seed=0)
    request = next(loop)                      # an Ask, or PullBacks by institution
    request = loop.send(answers)              # replies by institution ... until StopIteration

One round invents a batch and asks about it, takes the student steps that earlier answers made
due, hears the answers, and lets whoever invented the batch learn from them. So there is work that
does not wait for what travels. `Distillation.catch_up` does it; what was not done by the time that
the answers are there, the loop does before it hears them. When it is done changes no number.

Everything the loop does is decided by its arguments, the answers and the seed: the same three give
the same student, bit for bit on one machine. `Distillation` is the same loop for whoever wants to
use the time that answers take, or to set it down between two rounds and take it up again.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fedkd.aggregation.fusion import Fusion
from fedkd.aggregation.targets import Hearing
from fedkd.core.compute import CPU, Compute
from fedkd.core.plan import Distilled, Plan, Progress, Watch
from fedkd.core.state import Part, State, gather, scatter
from fedkd.methods.method import Method
from fedkd.procedural import Prior
from fedkd.protocol import (
    Answers,
    Ask,
    Card,
    LabelSpaces,
    Request,
    Signal,
    check_outputs,
    common_shape,
    label_spaces_of,
)
from fedkd.student.training import Learner, first_student
from fedkd.synthesis.generator_training import Heard
from fedkd.synthesis.output_diversified_sampling import neighbours_of
from fedkd.synthesis.public_samples import own_images
from fedkd.synthesis.scheduler import Inventors
from fedkd.synthesis.sources import Source, class_entropy

__all__ = ["PAUSE", "Distillation", "Distilled", "Plan", "Progress", "Watch", "distil", "drive"]

PAUSE: Request = {}
"""A question to nobody: a breath between student steps, for whoever drives the loop."""
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
    compute: Compute = CPU,
    collected: Tensor | None = None,
) -> Generator[Request, Answers, Distilled]:
    """Train ``student`` on what the institutions behind ``cards`` answer.

    Args:
        student: (B, C, H, W) in [0, 1] -> (B, K), K classes in the order of `LabelSpaces.of(cards)`;
            trained in place.
        method: the paper.
        cards: of the institutions; they agree on the shape, and each has classes of its own.
            Read at every question: a caller may add those who join before it sends their answers.
        plan: how much.
        priors: procedural images, by name.
        seed: of everything random in the loop.
        watch: is told of progress; changes nothing.
        compute: where student, generator and bank are. Requests and answers lie in ordinary memory,
            and so does the student once the run is over.
        collected: images of the coordinator's own, (N, C, H, W) uint8, where ``method`` needs some.

    Yields:
        What to ask. Send it the answers; whoever refused or was lost is absent from them.

    Raises:
        SettingsError: institutions disagree, or a rule or method asks for what they keep.
        QuorumLost: nobody answered a question.
    """
    run = Distillation(
        *(student, method, cards, plan, priors, seed, watch),
        compute=compute,
        collected=collected,
    )
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
    compute: Compute = CPU
    collected: Tensor | None = None
    asked: int = 0
    pulled_back: int = 0
    student_steps: int = 0
    generator_steps: int = 0
    _profile: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.method.check(list(self.cards))
        shape = common_shape(self.cards)
        check_outputs(self.student, shape, self.labels)
        self._hearing = Hearing(self.method, self.plan, self.cards, self.compute.device)
        self.bank = self._hearing.bank
        self._classes = torch.zeros(len(self.labels.names), dtype=torch.long)
        self._learner = Learner(self.student, self.method, self.plan, self.compute, self.seed)
        self._primer = first_student(self.student, self.method, self.plan, self.compute)
        self._inventors = Inventors(
            *(self.method, self.plan, self.priors),
            shape=shape,
            classes=len(self.labels.names),
            bank=self.bank,
            student=self.student,
            peers=self._learner.peers,
            primer=self._primer.network if self._primer else None,
            collected=own_images(self.collected, self.method, shape),
            seed=self.seed,
            compute=self.compute,
        )
        # A stream apart from that of the drawing, so that neither minds when the other draws.
        first = torch.randint(2**62, (), generator=torch.Generator().manual_seed(self.seed))
        self.rng = torch.Generator().manual_seed(int(first))
        self._target = 0.0
        self._parts: dict[str, Part] = {
            "student": self.student,
            "student_rng": self.rng,
            **self._hearing.parts,
            **self._learner.parts,
            **self._inventors.parts,
        }
        if self._primer:
            self._parts["primer"] = self._primer.network

    def requests(self) -> Generator[Request, Answers, Distilled]:
        """The run, from where it stands to its end; see `distil`."""
        rounds = self._rounds()
        try:
            request = next(rounds)
            while True:
                answers = yield request
                self.catch_up()
                request = rounds.send(answers)
        except StopIteration as stop:
            distilled: Distilled = stop.value
            return distilled

    def catch_up(self) -> None:
        """Take the student steps that are due and wait for no answer.

        For whoever drives the loop, to be called while a request travels.
        """
        while self.student_steps < min(round(self._target * self.plan.steps), self.plan.steps):
            self._student_step()

    def _rounds(self) -> Generator[Request, Answers, Distilled]:
        plan = self.plan
        while self.asked < plan.budget:
            self.rest()
            yield from self.question()
        self._target = self._due  # nothing travels any more that the rest of it could wait for
        self.catch_up()
        while self.student_steps < plan.steps:
            self.rest()
            self._target = self.progress + max(0.01, 1 / plan.steps)
            yield PAUSE
        CPU.bring_back(self.student.eval())
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
    def labels(self) -> LabelSpaces:
        """The classes of whoever takes part by now; which they are never changes in a run."""
        return label_spaces_of(tuple(self.cards))

    @property
    def fusion(self) -> Fusion:
        """Of whoever takes part by now."""
        return self._hearing.fusion

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.student_steps / self.plan.steps if self.plan.steps else 0.0

    def question(self) -> Generator[Request, Answers, None]:
        """Ask about one batch; whoever invented it learns from the answers."""
        invented = self._inventors.draw(self.asked, self.progress)
        drawn, images = invented.drawn, invented.images
        if invented.rehearsed:
            self._note_generated(self.method.rehearsals, invented.rehearsed)
        trains = drawn.images.requires_grad
        signals = self.method.needs if trains else frozenset({Signal.LOGITS})
        self._target = self._due
        wanted = drawn.wanted if (self.generator_steps + 1) % self.method.epoch == 0 else None
        ask = Ask(images, signals, exact=trains, recipe=drawn.recipe)
        answers, selected = yield from self._put(ask, drawn.origin, invented.source, wanted)
        self._prime()
        if trains:
            yield from self._improve(
                Heard(drawn, images, answers, selected, self.labels, self.fusion, self.progress)
            )

    def _put(
        self, ask: Ask, origin: str, source: Source | None, wanted: Tensor | None = None
    ) -> Generator[Request, Answers, tuple[Answers, Tensor | None]]:
        """Ask, and let bank and source learn; the answers, and which images were selected."""
        answers = yield ask
        self.asked += len(ask.images)
        target, selected = self._hearing.hear(ask.images, origin, answers, wanted)
        if source:
            source.learn(origin, target)
        self._note_question(origin, ask.images, target, answers)
        return answers, selected

    @property
    def _due(self) -> float:
        """Share of the student's steps that the answers so far have made due."""
        first = self.method.student_from * self.plan.budget
        return self.plan.asking * max(self.asked - first, 0.0) / (self.plan.budget - first)

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

    def _student_step(self) -> None:
        loss, weight = self._learner.step(self.bank, self.rng, self.student_steps, self.progress)
        self.student_steps += 1
        if self.student_steps % max(1, self.plan.steps // 200) == 0:
            self._note_step(loss, weight)

    def _improve(self, heard: Heard) -> Generator[Request, Answers, None]:
        """One step of the generator behind these images, after a look around them."""
        invention, rng = self._inventors.invention, self._inventors.rng
        if invention is None:
            return
        if self.method.neighbours:
            moved = yield from neighbours_of(heard, self.method, self.student, rng)
            self.pulled_back += len(moved)
            if len(moved := moved[self.bank.fresh(moved)]):
                yield from self._put(Ask(moved), "neighbours", None)
        # Half of what this question made due while it is pulled back, the rest while the next one
        # travels: the two take an institution about as long.
        self._target = (self._target + self._due) / 2
        done = yield from invention.improve(heard, self.generator_steps, rng)
        self.pulled_back += done.pulled_back
        self.asked += done.asked
        self._note_generated(1, done.terms)
        if self.generator_steps % self.method.epoch == 0:
            invention.begin(rng)
            if weights := self._hearing.weigh(rng):
                self._tell("weighed", weights=weights)

    def _note_generated(self, steps: int, terms: Mapping[str, float]) -> None:
        self.generator_steps += steps
        self._tell("generated", step=self.generator_steps, terms=dict(terms))

    def _note_question(self, origin: str, images: Tensor, target: Tensor, answers: Answers) -> None:
        """Record the question, and how far the student is from each institution on its classes."""
        own = self._learner.see(images)  # (B, K)
        labels = self.labels  # found among all cards, so once and not for each of them
        for name, reply in answers.items():
            said = reply.signals[Signal.LOGITS].float()  # (B, K_i)
            each = self.method.imitation(labels.to_local(name, own), said)
            self._profile[name] = float(each.mean())
        self._classes += target.argmax(1).bincount(minlength=target.shape[1])
        self._tell(
            "asked",
            origin=origin,
            count=len(images),
            class_entropy=self._inventors.prior.class_entropy,
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
            difficulty_by_institution=dict(sorted(self._profile.items())),
        )

    def _tell(self, kind: str, **facts: object) -> None:
        self.watch(Progress(kind, {"asked": self.asked, "done": self.progress, **facts}))
