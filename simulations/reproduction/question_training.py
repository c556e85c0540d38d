"""Question training: the federated loop with one teacher in this process, for methods by questions.

A method that trains no generator with its teacher, as DIP-KD, has its regime here: images are asked
about once, and the student learns from what was answered. No policy, ledger or codec takes part.
"""

from collections.abc import Generator
from dataclasses import replace

from torch import nn

from fedkd.core.checkpoint_state import State, gather, scatter
from fedkd.core.device import Compute
from fedkd.core.run_plan import Distilled, Plan
from fedkd.errors import SettingsError
from fedkd.loop import Distillation
from fedkd.methods import Method
from fedkd.models import InProcess, ModuleTeacher
from fedkd.procedural import build_prior
from fedkd.protocol import Answers, Request
from fedkd.simulations.reproduction.regime import QuestionsSection, Regime

TEACHER = "teacher"


class QuestionTraining:
    """Rounds in which a batch is asked about, and then rounds of student steps.

    Args:
        regime: with questions.
        questions: its section of that name.
        method: any.
        teacher: on the compute's device.
        student: (B, C, H, W) in [0, 1] -> (B, K), trained in place.
        shape: (C, H, W).
        seed: of everything random.
        compute: where, and how exactly.

    Raises:
        SettingsError: the student's optimiser or schedule is another than the loop's.
    """

    def __init__(
        self,
        regime: Regime,
        questions: QuestionsSection,
        method: Method,
        teacher: ModuleTeacher,
        student: nn.Module,
        shape: tuple[int, int, int],
        seed: int,
        compute: Compute,
    ) -> None:
        how = regime.student
        if (how.optimiser, how.schedule, how.images) != ("adam", "cosine", "kept"):
            raise SettingsError(
                f"student: optimiser {how.optimiser}, schedule {how.schedule}, images "
                f"{how.images}; a regime with questions has adam, cosine and kept"
            )
        self.student = student
        self.rounds = 0
        self._asking_rounds = asked = max(1, round(questions.share * regime.rounds_run))
        self._steps = how.steps
        self._teacher = InProcess({TEACHER: teacher}, shape, teacher.classes)
        priors = {
            name: build_prior(name, questions.warp, questions.mix, imports=True)
            for name in questions.priors
        }
        plan = Plan(
            budget=asked * regime.generator.batch,
            batch=regime.generator.batch,
            steps=max(1, regime.rounds_run - asked) * how.steps,
            student_batch=how.batch,
            asking=0.0,
            learning_rate=how.learning_rate,
            weight_decay=how.weight_decay,
            held_back=0.0,
        )
        self.run = Distillation(
            *(student, method, self._teacher.cards, plan, priors, seed), compute=compute
        )
        self.plan = replace(plan, budget=regime.rounds_run)
        """Its budget is the number of rounds."""
        self._learning: Generator[Request, Answers, Distilled] | None = None

    @property
    def samples(self) -> int:
        """Images that the teacher answered."""
        return self.run.asked

    @property
    def student_steps(self) -> int:
        """Steps that the student has taken."""
        return self.run.student_steps

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask, and the student has taken its steps."""
        return not self._asking and self.run.student_steps >= self.run.plan.steps

    def round(self) -> None:
        """One question, or as many steps of the student as a round has, or a pause of the loop."""
        if self._asking:
            self._ask()
            self.rounds += 1
            return
        before = self.rounds
        while self.rounds == before and not self.done:
            self._learn()
            self.rounds = self._asking_rounds + self.run.student_steps // self._steps

    def state(self) -> State:
        """All that changes, between two rounds."""
        return gather({"run": self.run}, {"rounds": self.rounds})

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        self.rounds = scatter(state, {"run": self.run})["rounds"]

    @property
    def _asking(self) -> bool:
        return self.run.asked < self.run.plan.budget

    def _ask(self) -> None:
        question = self.run.question()
        try:
            request = next(question)
            while True:
                request = question.send(self._teacher.answer(request))
        except StopIteration:
            return

    def _learn(self) -> None:
        """To the next pause of the loop, at which its state is whole."""
        if self._learning is None:
            self._learning = self.run.requests()
            next(self._learning, None)
        try:
            self._learning.send({})
        except StopIteration:
            return
