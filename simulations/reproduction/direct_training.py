"""Direct training: a method's generator and student learn with one teacher in the same process.

The parts are those of the federated loop: the method's terms, its curriculum, its student's loss.
What is left out is what nobody asked for here: policy, ledger, codec, bank, deduplication, rounding
to bytes, and the second pass through the teacher that a pull-back costs.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.checkpoint_state import Part, State, gather, scatter
from fedkd.core.device import Compute
from fedkd.core.interfaces import Context, Source
from fedkd.core.run_plan import Plan
from fedkd.core.source_types import Turn
from fedkd.errors import SettingsError
from fedkd.methods import Method
from fedkd.models import ModuleTeacher
from fedkd.protocol import Signal
from fedkd.simulations.reproduction.paper_networks import PaperImages
from fedkd.simulations.reproduction.regime import Regime, StudentSection
from fedkd.student import Trainer
from fedkd.synthesis import TrainedGenerator, TrainedSource, to_bytes
from fedkd.synthesis.trained_generator_source import DirectStep
from fedkd.tasks import Classification

KEPT = 50_000
"""Most images that are kept of the batches so far; the oldest give way."""
DRAWS = 20
"""Most batches that are drawn for one student step, of which a selection may reject images."""
LOGITS = frozenset({Signal.LOGITS})


class DirectTraining:
    """Rounds of generator steps and student steps.

    It is the clock of the parts too: their "questions" are its rounds.

    Args:
        regime: batches, steps and optimisers.
        method: of which a generator is trained.
        teacher: on the compute's device.
        student: (B, C, H, W) in [0, 1] -> (B, K), trained in place.
        shape: (C, H, W).
        seed: of everything random.
        compute: where, and how exactly.
        record: gets the generator's events.

    Raises:
        SettingsError: the method trains no generator, or the teacher lacks a signal.
    """

    def __init__(
        self,
        regime: Regime,
        method: Method,
        teacher: ModuleTeacher,
        student: nn.Module,
        shape: tuple[int, int, int],
        seed: int,
        compute: Compute,
        record: Callable[..., None] = lambda kind, **facts: None,
    ) -> None:
        if method.student:
            raise SettingsError(
                f"method {method.name} trains further parts of the student, which a regime does "
                "not; run it as an experiment"
            )
        self.regime, self.method, self.teacher = regime, method, teacher
        self.student, self.compute = student, compute
        self.rounds = self.samples = self.student_steps = 0
        begins = max(method.student_from, regime.student.begins)
        self._begins = min(round(begins * regime.rounds_run), regime.rounds_run - 1)
        steps = max(1, (regime.rounds_run - self._begins) * regime.student.steps)
        generator = regime.generator
        self.plan = Plan(
            budget=regime.rounds_run,
            batch=generator.batch,
            steps=steps,
            student_batch=regime.student.batch,
        )
        self.bank = Bank(KEPT, compute.device)
        self.trainer = Trainer(
            *(student, method.loss, method.curriculum.weights, self.plan, compute),
            optimizer=optimiser_of(student, regime.student),
            rate=regime.student.rate(steps),
        )
        self._context = Context(
            loss=method.loss,
            sample_weights=method.curriculum.weights,
            plan=self.plan,
            shape=shape,
            classes=teacher.classes,
            task=Classification(tuple(map(str, range(teacher.classes)))),
            domain=PaperImages(shape, generator, regime.data),
            student=student,
            bank=self.bank,
            priors={},
            public=None,
            seed=seed,
            rng=torch.Generator().manual_seed(seed),
            compute=compute,
            clock=self,
            record=record,
            teacher=_Counted(self),
        )
        self.source = self._build_generator()
        self.others = self._build_others()
        self._images = IMAGES[regime.student.images]
        self.last: DirectStep | None = None
        """The last generator step."""

    @property
    def asked(self) -> int:
        """Rounds that are done; see `fedkd.core.interfaces.Clock`."""
        return self.rounds

    @property
    def progress(self) -> float:
        """Share of the student's steps that is taken."""
        return min(1.0, self.student_steps / self.plan.steps)

    @property
    def done(self) -> bool:
        """Whether all rounds have been run."""
        return self.rounds >= self.plan.budget

    def round(self) -> None:
        """One round: generator steps while it learns, student steps once it is to begin."""
        if self.source.learning:
            self._generator_steps()
        if self.rounds >= self._begins:
            for _ in range(self.regime.student.steps):
                images, target = self._images(self)
                self.trainer.learn(images, target, self.student_steps, self.progress)
                self.student_steps += 1
        self.rounds += 1

    def answer(self, images: Tensor) -> Tensor:
        """The teacher's logits (B, K) for images (B, C, H, W), off the graph; counted."""
        self.samples += len(images)
        with torch.no_grad():
            return self.teacher.signals_with_graph(images, LOGITS)[Signal.LOGITS]

    def fresh(self, count: int) -> tuple[Tensor, Tensor]:
        """``count`` images drawn anew, of those that are selected, and the teacher's logits."""
        images, logits, found = list[Tensor](), list[Tensor](), 0
        training = self.regime.student.drawn_in == "training"
        for _ in range(DRAWS):
            with self.compute.autocast():
                x = self.source.target.draw_unasked(count, self._context.rng, training)
            x = x.float()
            y = self.answer(x)
            if self.method.selection is not None:
                kept = self.method.selection(y)
                x, y = x[kept], y[kept]
            images.append(x)
            logits.append(y)
            found += len(x)
            if found >= count:
                break
        return torch.cat(images)[:count], torch.cat(logits)[:count]

    def state(self) -> State:
        """All that changes, between two rounds."""
        numbers = {
            "rounds": self.rounds,
            "samples": self.samples,
            "student_steps": self.student_steps,
        }
        return gather(self._parts, numbers)

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        numbers = scatter(state, self._parts)
        self.rounds, self.samples = numbers["rounds"], numbers["samples"]
        self.student_steps = numbers["student_steps"]

    def _generator_steps(self) -> None:
        progress = self.rounds / self.plan.budget
        turn = Turn(self.plan.batch, self._context.rng, progress)
        best: DirectStep | None = None
        for _ in range(self.regime.generator.steps):
            step = self.source.train_directly(turn, self.teacher, self.method.selection)
            self.samples += len(step.images)
            self.last = step
            best = step if best is None or step.loss < best.loss else best
        if self.regime.student.images == "kept" and best is not None:
            self.bank.add(to_bytes(best.images), best.logits)

    def _build_generator(self) -> TrainedSource:
        """The source that is trained.

        Raises:
            SettingsError: there is none, or the teacher lacks a signal that its terms read.
        """
        name = self.method.name
        specs = [share.spec for share in self.method.sources.values()]
        trained = [spec for spec in specs if isinstance(spec, TrainedGenerator)]
        if not trained:
            raise SettingsError(f"{name} trains no generator with a teacher; use `fedkd run`")
        if lacking := frozenset(trained[0].needs.signals) - self.teacher.signals:
            raise SettingsError(
                f"{name} needs {', '.join(sorted(lacking))}, which the teacher "
                f"{self.regime.teacher.model!r} does not have; choose one with batch norm, or set "
                "the weight of that term to 0"
            )
        source: TrainedSource = self._context.part(cast(Any, trained[0]))
        return source

    def _build_others(self) -> Mapping[str, tuple[Source, float]]:
        """The method's other sources that ever propose, with images for one of the generator's."""
        sources = self.method.sources.items()
        shares = {name: share.schedule(0.5) if share.schedule else 0.0 for name, share in sources}
        own = shares.pop("generator", 1.0)
        return {
            name: (self._context.part(self.method.sources[name].spec), share / own)
            for name, share in shares.items()
            if share > 0 and own > 0
        }

    @property
    def _parts(self) -> Mapping[str, Part]:
        return {
            "student": self.student,
            "optimizer": self.trainer.optimizer,
            "source": self.source,
            "rng": self._context.rng,
            "bank": self.bank,
            **{f"source.{name}": source for name, (source, _) in self.others.items()},
        }


class _Counted:
    """The teacher, for parts that ask it on their own account: what it answers them is counted."""

    def __init__(self, training: DirectTraining) -> None:
        self._training = training

    def signals_with_graph(
        self, images: Tensor, signals: frozenset[Signal]
    ) -> Mapping[Signal, Tensor]:
        """See `fedkd.core.interfaces.TeacherInProcess`."""
        self._training.samples += len(images)
        return self._training.teacher.signals_with_graph(images, signals)


def _fresh(training: DirectTraining) -> tuple[Tensor, Tensor]:
    """Images drawn anew, and of the method's other sources, which may learn from all of them."""
    images, target = training.fresh(training.plan.student_batch)
    for source, share in training.others.values():
        training.bank.add(to_bytes(images), target)
        count = max(2, round(share * len(images)))
        turn = Turn(count, training._context.rng, training.rounds / training.plan.budget)
        if (proposal := source.propose(turn)) is not None:
            further = proposal.images.to(images)
            images = torch.cat([images, further])
            target = torch.cat([target, training.answer(further)])
    return images, target


def _same(training: DirectTraining) -> tuple[Tensor, Tensor]:
    """Those of the last generator step."""
    if training.last is None:
        return training.fresh(training.plan.student_batch)
    return training.last.images, training.last.logits


def _kept(training: DirectTraining) -> tuple[Tensor, Tensor]:
    """Drawn from the best images of all batches so far."""
    return training.bank.draw(training.plan.student_batch, training._context.rng)


IMAGES: Mapping[str, Callable[[DirectTraining], tuple[Tensor, Tensor]]] = {
    "fresh": _fresh,
    "same": _same,
    "kept": _kept,
}
"""Where the images (B, C, H, W) of a student step and the teacher's logits (B, K) come from."""


def optimiser_of(student: nn.Module, settings: StudentSection) -> torch.optim.Optimizer:
    """The student's; whoever steps it sets the rate."""
    weights, decay = student.parameters(), settings.weight_decay
    if settings.optimiser == "adam":
        return torch.optim.Adam(weights, settings.learning_rate, weight_decay=decay)
    return torch.optim.SGD(weights, settings.learning_rate, settings.momentum, weight_decay=decay)
