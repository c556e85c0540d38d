"""Distillation loop, one for every method: a Python generator that yields queries; no network.

    loop = distil(student, cudfkd(), cards, Plan(budget=12_800), priors, seed=0)
    request = next(loop)                      # an Ask, or PullBacks by institution
    request = loop.send(answers)              # replies by institution ... until StopIteration

One round lets a source propose a batch and asks about it, takes the student steps that earlier
answers made due, aggregates the answers, and lets the source learn from them. So there is work that
does not wait for what travels. `Distillation.catch_up` does it; what was not done by the time that
the answers are there, the loop does before it hears them. When it is done changes no number.

Everything the loop does is decided by its arguments, the answers and the seed: the same three give
the same student, bit for bit on one machine. `Distillation` is the same loop for whoever wants to
use the time that answers take, or to set it down between two rounds and take it up again.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.checkpoint_state import Part, State, gather, scatter
from fedkd.core.device import CPU, Compute
from fedkd.core.earlier_student import EarlierStudent
from fedkd.core.interfaces import Aggregation, Context
from fedkd.core.loop_driver import PAUSE, drive
from fedkd.core.public_data import PublicData
from fedkd.core.request_counts import RequestCounts
from fedkd.core.run_plan import Distilled, Plan, Progress, Watch
from fedkd.core.source_types import AnsweredBatch, FollowUps, Proposal
from fedkd.domains import domain_of
from fedkd.errors import QuorumLost
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
    with_batch_statistics,
)
from fedkd.student.event_emitter import RunEvents
from fedkd.student.held_back_evaluation import HeldBackEvaluation
from fedkd.student.training import Trainer
from fedkd.synthesis import Scheduled, SourceScheduler, to_bytes
from fedkd.tasks import task_of

__all__ = ["PAUSE", "Distillation", "Distilled", "Plan", "Progress", "Watch", "distil", "drive"]


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
    public: PublicData | Tensor | None = None,
) -> Generator[Request, Answers, Distilled]:
    """Train ``student`` on what the institutions behind ``cards`` answer.

    Args:
        student: (B, C, H, W) in [0, 1] -> (B, K) of `LabelSpaces.of(cards)`; trained in place.
        method: the paper; in its form for a single institution, where it has one and can be used.
        cards: of the institutions, which agree on the shape; each has classes of its own. Read at
            every question: a caller may add those who join before it sends their answers.
        plan: how much.
        priors: procedural images, by name.
        seed: of everything random in the loop.
        watch: is told of progress; changes nothing.
        compute: where student, generator and bank are. Requests and answers lie in ordinary memory,
            and so does the student once the run is over.
        public: samples of the coordinator's own, (N, C, H, W) uint8, where ``method`` needs some.

    Yields:
        What to ask. Send it the answers; whoever refused or was lost is absent from them.

    Raises:
        SettingsError: institutions disagree, or a rule or method asks for what they keep.
        QuorumLost: nobody answered a question.
    """
    run = Distillation(
        *(student, method, cards, plan, priors, seed, watch), compute=compute, public=public
    )
    return (yield from run.requests())


@dataclass(eq=False)
class Distillation:
    """One run: the arguments of `distil`, and all that came of them so far.

    Attributes:
        rest: called between rounds or slices of student steps: there alone `state` is all of it.
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
    public: PublicData | Tensor | None = None
    earlier: EarlierStudent | None = None  # ``cards`` has its card, and the driver its answers
    student_steps: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.method = self.method.for_cards(self.cards)
        self.method.check(list(self.cards), self.plan.batch_statistics)
        self.plan.check_cards(self.cards)
        self.method.check_public_data(self.public is not None)
        check_outputs(self.student, shape := common_shape(self.cards), self.labels)
        method, plan, device = self.method, self.plan, self.compute.device
        self.compute = replace(self.compute, batch_statistics=plan.batch_statistics)
        by_question, whole = method.by_question, plan.batch_statistics
        self.bank = Bank(plan.capacity, device, plan.held_back, self.seed, by_question, whole)
        self._counts, self._target = RequestCounts(self.plan.budget), 0.0
        self.task, self.domain = task_of(self.cards), domain_of(self.cards)
        self._loss = self.task.loss(method.loss_over(self.earlier, self.labels), plan.loss)
        plain = self.task.loss(method.loss, plan.loss)  # of one institution's outputs: no slices
        self._events = RunEvents(self.watch, self, plain, method.curriculum, self.task)
        context = self._context(shape)
        self._aggregation = method.aggregation.with_rule(method.rule_for(plan.rule)).build(context)
        self._student_parts = {name: context.part(of) for name, of in method.student.items()}
        self._trainer = Trainer(
            *(self.student, self._loss, method.curriculum.weights, plan, self.compute),
            parts=tuple(self._student_parts.values()),
        )
        self._held_back = HeldBackEvaluation(
            *(self.bank, self._trainer, self.task, plan, self._events.record)
        )
        sources = {name: context.part(share.spec) for name, share in method.sources.items()}
        schedules = {name: share.schedule for name, share in method.sources.items()}
        drawing = (plan, self.bank, context.rng, self._events.record)
        self._scheduler = SourceScheduler(sources, schedules, *drawing)
        # A stream apart from that of the sources, so that neither minds when the other draws.
        first = torch.randint(2**62, (), generator=torch.Generator().manual_seed(self.seed))
        self.rng = torch.Generator().manual_seed(int(first))
        self._parts: dict[str, Part] = {
            "student": self.student,
            "optimizer": self._trainer.optimizer,
            "student_rng": self.rng,
            "source_rng": context.rng,
            "bank": self.bank,
            "counts": self._counts,
            "events": self._events,
            "aggregation": self._aggregation,
            **({"held_back": self._held_back} if plan.stop else {}),
            **{f"student.{name}": part for name, part in self._student_parts.items()},
            **{f"source.{name}": source for name, source in sources.items()},
        }

    def _context(self, shape: tuple[int, int, int]) -> Context:
        """What parts are built from."""
        return Context(
            loss=self._loss,
            sample_weights=self.method.curriculum.weights,
            plan=self.plan,
            shape=shape,
            classes=len(self.labels.names),
            task=self.task,
            domain=self.domain,
            student=self.student,
            bank=self.bank,
            priors=self.priors,
            public=None if self.public is None else PublicData.of(self.public),
            seed=self.seed,
            rng=torch.Generator().manual_seed(self.seed),
            compute=self.compute,
            clock=self,
            record=self._events.record,
            earlier=self.earlier,
        )

    def requests(self) -> Generator[Request, Answers, Distilled]:
        """The run, from where it stands to its end; see `distil`."""
        rounds = self._rounds()
        try:
            request = next(rounds)
            while True:
                answers = yield with_batch_statistics(request, self.plan.batch_statistics)
                self.catch_up()
                request = rounds.send(answers)
        except StopIteration as stop:
            distilled: Distilled = stop.value
            return distilled

    def catch_up(self) -> None:
        """Take the student steps that are due; to be called while a request travels."""
        while self.student_steps < min(round(self._target * self.plan.steps), self.plan.steps):
            step = self._trainer.step(self.bank, self.rng, self.student_steps, self.progress)
            self.student_steps += 1
            self._events.student_step(self.student_steps, *step)
            self._held_back.student_step(self.student_steps, asking=self._counts.may_ask)

    def _rounds(self) -> Generator[Request, Answers, Distilled]:
        plan = self.plan
        while self._counts.may_ask and not self._held_back.stopped:
            self.rest()
            yield from self.question()
        self._target = self._due  # nothing travels any more that the rest of it could wait for
        self.catch_up()
        while self.student_steps < plan.steps:
            self.rest()
            self._target = self.progress + max(0.01, 1 / plan.steps)
            yield PAUSE
        held_back = self._held_back.scores()
        CPU.bring_back(self.student.eval())
        return Distilled(
            *(self.student, self.bank, self.asked, self.pulled_back),
            *(self.student_steps, self.generator_steps, held_back, self.labels.names),
            saved=plan.budget - self.asked if self._held_back.stopped else 0,
        )

    def state(self) -> State:
        """All that the run has come to; whole only while it rests."""
        return gather(self._parts, {"student_steps": self.student_steps})

    def restore(self, state: State) -> None:
        """Stand where another run of the same arguments stood; before `requests` is called.

        Raises:
            DataError: the state is of a run with other arguments.
        """
        self.student_steps = scatter(state, self._parts)["student_steps"]

    def exclude(self, names: Collection[str]) -> None:
        """Fuse their answers out of all targets, between two requests; steps taken stay taken."""
        if (targets := self._aggregation.exclude(names, self.cards)) is not None:
            self.bank.retarget(targets)

    @property
    def aggregation(self) -> Aggregation:
        """By which answers are fused; not to be told of any."""
        return self._aggregation

    @property
    def labels(self) -> LabelSpaces:
        """The classes of whoever takes part by now; which they are never changes in a run."""
        return label_spaces_of(tuple(self.cards))

    @property
    def asked(self) -> int:
        """Samples asked of each institution so far."""
        return self._counts.asked

    @property
    def pulled_back(self) -> int:
        """Samples whose gradient each institution was asked for so far."""
        return self._counts.pulled_back

    @property
    def generator_steps(self) -> int:
        """Optimisation steps of all sources so far."""
        return self._scheduler.steps

    @property
    def progress(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.student_steps / self.plan.steps if self.plan.steps else 0.0

    def question(self) -> Generator[Request, Answers, None]:
        """Ask about one batch, and let its source learn; where there is none, asking ends."""
        scheduled = self._scheduler.next(self.asked)
        if scheduled is None:
            return self._counts.end()
        self._target = self._due
        answered = yield from self._put(scheduled.proposal, scheduled.images, scheduled.progress)
        follow_ups = scheduled.source.learn(answered)
        self._record(answered)
        for part in self._student_parts.values():
            part.prepare(self.rng)
        if follow_ups is not None:
            yield from self._follow(follow_ups, scheduled)
        if (targets := self._aggregation.improve(self._scheduler.rng)) is not None:
            self.bank.retarget(targets)

    def _put(
        self, proposal: Proposal, images: Tensor, progress: float
    ) -> Generator[Request, Answers, AnsweredBatch]:
        """Ask about ``images``, aggregate the answers, and bank both."""
        exact = proposal.images.requires_grad
        request = Ask(images, self.method.asked(proposal.signals), exact, proposal.recipe)
        answers = self.method.outputs((yield request), self.cards)
        self._counts.add(request)
        if not answers:
            raise QuorumLost("nobody answered a question; bring institutions back, or ask less")
        fusion = self._aggregation.fusion(self.cards)
        with torch.no_grad():
            target = fusion.of(answers)[Signal.LOGITS]
            selected = self.method.selection(target) if self.method.selection else None
        kept = self.bank.add(images, target, selected, proposal.times)
        self._aggregation.hear(answers, self.labels, kept, proposal)
        return AnsweredBatch(
            *(proposal, images, answers, target, selected),
            *(self.labels, fusion, progress),
        )

    def _follow(self, follow_ups: FollowUps, of: Scheduled) -> Generator[Request, Answers, None]:
        """Put a source's further requests, bank its further proposals, and count both."""
        half_due = False
        try:
            request = next(follow_ups)
            while True:
                if isinstance(request, Proposal):
                    answers = yield from self._propose(request, of)
                else:
                    self._counts.expect_within_budget(request, of.proposal.origin)
                    if not half_due:
                        # Half of what is due now, the rest while the next question travels.
                        self._target, half_due = (self._target + self._due) / 2, True
                    answers = yield request
                    self._counts.add(request)
                request = follow_ups.send(answers)
        except StopIteration:
            return

    def _propose(self, further: Proposal, of: Scheduled) -> Generator[Request, Answers, Answers]:
        """Ask about what is new of a further proposal, and bank it; no answers where nothing is."""
        images = to_bytes(further.images)
        fresh = self.bank.fresh(images)
        if not bool(fresh.any()):
            return {}
        self._counts.expect_within_budget(Ask(images[fresh]), of.proposal.origin)
        answered = yield from self._put(further.only(fresh), images[fresh], of.progress)
        self._record(answered)
        return answered.answers

    def _record(self, answered: AnsweredBatch) -> None:
        """Record a question, and how far the student is from each institution there."""
        student = self._trainer.logits(answered.images)
        self._events.question(answered, student, self._scheduler.facts)

    @property
    def _due(self) -> float:
        """Share of the student's steps that the answers so far have made due."""
        first = self.method.student_from * self.plan.budget
        return self.plan.asking * max(self.asked - first, 0.0) / (self.plan.budget - first)
