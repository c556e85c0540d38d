"""Coordinator: runs the distillation loop, has its queries answered, checkpoints the replies.

An engine hands over its cards and one function that answers requests; in one process, through
Flower's simulation or across a network, everything from here on is the same.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.core.augmentation import Augmentation
from fedkd.core.device import CPU, Compute
from fedkd.core.earlier_student import EarlierStudent, TeacherCards, remote_part, with_local_answer
from fedkd.core.public_data import PublicData
from fedkd.domains import domain_of
from fedkd.errors import QuorumLost, SettingsError
from fedkd.experiment import Experiment
from fedkd.loop import PAUSE, Distillation, Distilled, Plan, Progress, Watch
from fedkd.methods import Method, make
from fedkd.models import Shape, check_network, copy_grown_weights
from fedkd.procedural import Prior
from fedkd.protocol import (
    Answers,
    Card,
    LabelSpaces,
    Request,
    check_growth,
    new_classes,
    without_recipe,
)
from fedkd.server.card_limits import check_cards
from fedkd.server.fusion_dry_run import fusion_failure
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.earlier_run import earlier_run
from fedkd.server.run.missing_institutions import Lost, reasons
from fedkd.server.run.public_data_loading import load_public_data
from fedkd.wire import MissingInstitutions

Answer = Callable[[Request], tuple[Answers, Lost]]
"""Puts one request to the institutions: their replies, and who is missing."""


@dataclass(frozen=True, eq=False)
class Ingredients:
    """What the coordinator brings to a run, built from an experiment or by hand."""

    student: nn.Module
    method: Method
    plan: Plan
    priors: Mapping[str, Prior]
    seed: int = 0
    quorum: int = 1
    checkpoint: Checkpoint | None = None
    """The run's way back, where it is to have one."""
    recipes: bool = True
    """Whether images may be named by recipe; the student does not depend on it."""
    overlap: bool = True
    """Whether the student learns while answers travel; that takes less time and changes nothing."""
    compute: Compute = CPU
    public: PublicData | Tensor | None = None
    """The coordinator's own images, where the method needs some; a tensor is (N, C, H, W) uint8."""
    earlier: EarlierStudent | None = None


StudentFactory = Callable[[int, Shape], nn.Module]
"""(K, (C, H, W)) -> a student, untrained."""


def ingredients(
    experiment: Experiment,
    cards: Sequence[Card],
    checkpoint: Checkpoint | None = None,
    build: StudentFactory | None = None,
) -> Ingredients:
    """Student, method, plan and priors of an experiment, for the institutions of ``cards``.

    The student has an output for every class that one of them, or the earlier student, knows.

    Args:
        experiment: resolved.
        cards: of the institutions.
        checkpoint: of the run.
        build: makes the student, where it is not the one that the experiment names.

    To be called in the thread that will drive the loop: torch counts threads for each thread.

    Raises:
        SettingsError: an unknown name, an argument that the method does not know, a card out of
            bounds, or more memory than this machine has.
        DataError: the earlier run cannot be read.
    """
    compute = Compute.of(experiment.student.device, experiment.student.precision)
    run = earlier_run(experiment.grow)
    earlier = None if run is None else run.student(compute.device)
    teachers = TeacherCards(earlier, cards)
    check_cards(experiment, teachers)
    torch.set_num_threads(experiment.student.threads)
    domain, questions = domain_of(teachers), experiment.questions
    labels = LabelSpaces.of(teachers)
    outputs = len(labels.names)
    student = build(outputs, domain.shape) if build else domain.student(experiment, outputs)
    if earlier is not None:
        check_growth(earlier.card, cards)
        copy_grown_weights(student, earlier.network, labels.indices[earlier.card.name])
    what = f"student.model {experiment.student.model!r}"
    check_network(what, student, outputs, domain.shape, logits=not cards[0].numbers)
    method = make(experiment.method.name, experiment.method.arguments)
    return Ingredients(
        student,
        method,
        Plan(
            budget=questions.budget,
            batch=questions.batch,
            steps=experiment.student.steps,
            student_batch=experiment.student.batch,
            asking=questions.asking,
            learning_rate=experiment.student.learning_rate,
            weight_decay=experiment.student.weight_decay,
            optimizer=experiment.student.optimizer,
            capacity=questions.capacity,
            rule=method.rule_for(questions.rule),
            loss=experiment.student.loss,
            augmentation=Augmentation(experiment.student.shift, experiment.student.mirrors),
            held_back=questions.held_back,
            prior=questions.prior,
            stop=questions.stop,
            batch_statistics=questions.batch_statistics,
        ),
        domain.priors(experiment),
        experiment.seed,
        questions.quorum,
        checkpoint,
        questions.recipes,
        questions.overlap,
        *(compute, _public(experiment, method, cards[0].shape), earlier),
    )


def _public(experiment: Experiment, method: Method, shape: Shape) -> PublicData | None:
    """Public samples of the coordinator's own, where the method has a use for them."""
    needed = method.needs.public_data and experiment.images.public_names
    return load_public_data(experiment.images, shape) if needed else None


@dataclass(eq=False)
class Coordinator:
    """A loop in the making, advanced as far as its driver wants.

    Attributes:
        parts: student, method, plan and priors.
        cards: of the institutions that take part. Whoever answers for them may add to it.
        answer: puts a request to them, and waits. Called from another thread than the loop's where
            the student is to learn meanwhile.
        watch: is told of everything that happens.
    """

    parts: Ingredients
    cards: list[Card]
    answer: Answer
    watch: Watch = lambda progress: None
    exclusions: Callable[[], Mapping[str, str]] = dict
    """Whom the operator has excluded, with reasons; read while nothing is asked."""
    done: float = 0.0
    """Share of the student's steps that are taken."""
    latest: dict[str, Any] = field(default_factory=dict)
    """Facts of the last event of each kind, by kind."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Of the driver, JSON: a run that is taken up again finds them as they were."""
    distilled: Distilled | None = None
    """What the run left, once it has ended."""
    _lost: set[str] = field(default_factory=set)
    _banned: set[str] = field(default_factory=set)
    _excluded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        parts, checkpoint = self.parts, self.parts.checkpoint
        if checkpoint is not None:
            self.cards = checkpoint.check_participants(self.cards)
        if parts.earlier is not None:
            new_classes(parts.earlier.card, self.cards)
        self.teachers = TeacherCards(parts.earlier, self.cards)
        self._distillation = Distillation(
            *(parts.student, parts.method, self.teachers, parts.plan, parts.priors, parts.seed),
            watch=self._note,
            rest=self._rest,
            compute=parts.compute,
            public=parts.public,
            earlier=parts.earlier,
        )
        if why := fusion_failure(self._distillation, self.teachers):
            raise SettingsError(f"answers of these institutions cannot be fused: {why}")
        if checkpoint is not None:
            checkpoint.record_participants(self.cards)
            self._take_up(checkpoint)
        self._loop = self._distillation.requests()
        self._request: Request | None = None
        self._road: ThreadPoolExecutor | None = None

    def fusion_failure(self, card: Card) -> str | None:
        """Why answers of ``card`` cannot be fused with those of the others; None if they can."""
        return fusion_failure(self._distillation, [*self.teachers, card])

    @property
    def student(self) -> nn.Module:
        """As far as it has learned."""
        return self.parts.student

    def advance(self, until: float = 1.0) -> bool:
        """Run until this share of the student's steps is done; True once the run has ended.

        Raises:
            QuorumLost: fewer institutions than ``quorum`` answered a question.
        """
        try:
            if self._request is None and self.distilled is None:
                self._request = next(self._loop)
            while self.distilled is None and (self.done < until or until >= 1.0):
                self._request = self._loop.send(self._ask(self._request or PAUSE))
        except StopIteration as stop:
            self.distilled, self.done = stop.value, 1.0
            if self._road is not None:
                # A thread of torch's that ends while the interpreter does may abort the process.
                self._road.shutdown()
                self._road = None
        return self.distilled is not None

    def finish(self) -> Distilled:
        """Run to the end."""
        self.advance()
        if self.distilled is None:
            raise RuntimeError("the loop paused for ever")
        return self.distilled

    def _ask(self, request: Request) -> Answers:
        earlier = self.parts.earlier
        return with_local_answer(earlier, request, self._ask_all(remote_part(earlier, request)))

    def _ask_all(self, request: Request) -> Answers:
        if request == PAUSE:
            self._exclude(self.exclusions())
            return {}
        checkpoint, known = self.parts.checkpoint, len(self.cards)
        if checkpoint is not None and (heard := checkpoint.replayed(request)) is not None:
            self._distillation.catch_up()
            self._tell_of(heard.joined, heard.answers, heard.missing)
            return heard.answers
        answers, lost = self._put(request if self.parts.recipes else without_recipe(request))
        joined, missing = self.cards[known:], reasons(lost)
        self._tell_of(joined, answers, missing)
        if len(answers) < self.parts.quorum:
            why = "; ".join(f"{name}: {reason}" for name, (_, reason) in missing.items())
            raise QuorumLost(
                f"{len(answers)} of {len(self.cards)} institutions answered, "
                f"{self.parts.quorum} are needed ({why}); lower questions.quorum or bring them back"
            )
        if checkpoint is not None:
            checkpoint.append(request, answers, missing, joined)
        return answers

    def _put(self, request: Request) -> tuple[Answers, Lost]:
        """What is answered, once the student has caught up: during the wait or after it.

        The record thus tells the same in every life of a run.
        """
        if not self.parts.overlap:
            answered = self.answer(request)
            self._distillation.catch_up()
            return answered
        if self._road is None:
            # Sums depend on the number of threads, and torch counts them for each thread.
            threads = torch.get_num_threads()
            self._road = ThreadPoolExecutor(1, "fedkd-road", torch.set_num_threads, (threads,))
        travelling = self._road.submit(self.answer, request)
        self._distillation.catch_up()
        return travelling.result()

    def _tell_of(
        self, joined: Sequence[Card], answers: Answers, missing: MissingInstitutions
    ) -> None:
        """Events of who came, went and is back, each told once."""
        for card in joined:
            self.watch(Progress("joined", {"name": card.name}))
        for name in sorted(self._lost & answers.keys()):
            self.watch(Progress("returned", {"name": name}))
        self._lost -= answers.keys()
        for name, (kind, reason) in missing.items():
            new = name not in self._lost or (kind == "banned" and name not in self._banned)
            if new and kind != "excluded":
                self.watch(Progress(kind, {"name": name, "reason": reason}))
            self._lost.add(name)
            if kind == "banned":
                self._banned.add(name)
        self._exclude({n: reason for n, (kind, reason) in missing.items() if kind == "excluded"})

    def _exclude(self, reasons: Mapping[str, str]) -> None:
        """Fuse out the answers of whom the operator has excluded, once."""
        new = sorted(reasons.keys() - self._excluded)
        self._excluded.update(new)
        taking_part = {card.name for card in self.cards}
        if names := [name for name in new if name in taking_part]:
            self._distillation.exclude(names)
            for name in names:
                self.watch(Progress("excluded", {"name": name, "reason": reasons[name]}))

    def _rest(self) -> None:
        """The loop rests: a moment at which the run may be set down."""
        if self.parts.checkpoint is None:
            return
        own = {
            "done": self.done,
            "latest": self.latest,
            "lost": sorted(self._lost),
            "banned": sorted(self._banned),
            "excluded": sorted(self._excluded),
        }
        asking = self._distillation.asked < self.parts.plan.budget
        try:
            self.parts.checkpoint.save_if_due(
                asking, self._distillation.state, {"own": own, "driver": self.notes}
            )
        except OSError as error:
            text = f"no checkpoint could be written, the one before stands: {error}"
            print(f"fedkd: {text}", file=sys.stderr)
            self.watch(Progress("warned", {"text": text}))

    def _take_up(self, checkpoint: Checkpoint) -> None:
        """Stand where the run was set down."""
        if checkpoint.state is None:
            return
        self._distillation.restore(checkpoint.state)
        own = checkpoint.notes["own"]
        self.done, self.latest = own["done"], own["latest"]
        self._lost, self._banned = set(own["lost"]), set(own["banned"])
        self._excluded = set(own.get("excluded", ()))
        self.notes = checkpoint.notes["driver"]
        if checkpoint.manifest.without:
            self._distillation.exclude(checkpoint.manifest.without)
        checkpoint.state = None  # it may be large

    def _note(self, progress: Progress) -> None:
        self.latest[progress.kind] = progress.facts
        if isinstance(done := progress.facts.get("done"), float):
            self.done = done
        self.watch(progress)
