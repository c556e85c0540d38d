"""A method is a value: what a paper trains, on what, how hard. Knows no loop and no transport."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from fedkd.errors import NeedsError, SettingsError
from fedkd.losses.distillation import Imitation, l1_centred
from fedkd.losses.term import Term
from fedkd.methods.mechanisms import Discrimination, Memory, Reuse
from fedkd.models import SynthesisTarget
from fedkd.protocol import Card, Signal
from fedkd.student.curriculum import UNIFORM, Curriculum, Schedule, constant, ramp
from fedkd.synthesis.data_impressions import Impressions
from fedkd.synthesis.discriminator import Rivalry
from fedkd.synthesis.gradients import NONE, Gradient
from fedkd.synthesis.gradients import gradient as gradient_named

CHECKED = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Progress at which schedules of weights are looked at."""

Selection: TypeAlias = Callable[[Tensor], Tensor]
"""(B, K) target logits -> (B,) bool: which images are worth learning from; one at least."""

Objective: TypeAlias = tuple[tuple[Schedule, Term], ...]
"""A generator's terms, each with a schedule of its weight."""


def used(objective: Objective) -> Objective:
    """The terms that ever weigh anything: one that never does must not ask for its signals.

    Raises:
        SettingsError: a weight below 0.
    """
    for schedule, term in objective:
        _expect_weights(f"weight of {term.name}", schedule)
    return tuple((w, term) for w, term in objective if any(w(p) for p in CHECKED))


def trained_by(paper: str, name: str, ways: tuple[str, ...]) -> Gradient:
    """The gradient of that name, for a paper whose generator can learn by ``ways`` alone.

    Raises:
        SettingsError: there is none, or the generator would learn nothing by it.
    """
    how = gradient_named(name)
    if name not in ways:
        raise SettingsError(
            f"{paper} has nothing to learn by gradient {name!r}; choose one of {', '.join(ways)}"
        )
    return how


def sources(
    trains: bool, warm_up: float = 0.0, generated: float = 1.0, evolved: float = 0.0
) -> dict[str, Schedule]:
    """Who asks: source -> schedule of its share of the questions.

    Args:
        trains: whether there is a generator.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that.
        evolved: share of the prior's questions that the bank's evolution takes over.
    """
    if not trains:
        return {"prior": constant(1.0 - evolved), "evolution": constant(evolved)}
    generator = ramp(0.0, generated, warm_up, warm_up)
    return {
        "prior": lambda p: (1.0 - generator(p)) * (1.0 - evolved),
        "evolution": lambda p: (1.0 - generator(p)) * evolved,
        "generator": generator,
    }


NETWORK = SynthesisTarget()
"""A generator that is fed with new latents each time."""
FULL = constant(1.0)
"""Hardness of a method without a ramp."""


@dataclass(frozen=True)
class Primer:
    """A first student, taught while the student waits, whom the student hears ever after.

    Attributes:
        steps: of its own for each of the student's, > 0.
        weight: of its logits in the student's loss, >= 0.
        contrast_steps: in which source "contrast" moves a batch apart in its eyes, >= 1.
        contrast_rate: of pixels in them, > 0.
    """

    steps: float
    weight: Schedule
    contrast_steps: int
    contrast_rate: float

    def __post_init__(self) -> None:
        _expect_weights("the primer's part", self.weight)
        if not (0 < self.steps < math.inf and 0 < self.contrast_rate < math.inf):
            raise SettingsError(
                f"primer: steps {self.steps}, contrast_rate {self.contrast_rate}; expected > 0"
            )
        if self.contrast_steps < 1:
            raise SettingsError(f"expected contrast_steps >= 1, got {self.contrast_steps}")


@dataclass(frozen=True)
class Neighbours:
    """Each batch of a generator is moved along a random slope of the ensemble, and asked again.

    Attributes:
        step: by which each pixel moves, in (0, 1].
        temperature: of the probabilities whose slope it is, > 0.
    """

    step: float
    temperature: float

    def __post_init__(self) -> None:
        if not (0 < self.step <= 1 and 0 < self.temperature < math.inf):
            raise SettingsError(
                f"neighbours: step {self.step}, temperature {self.temperature}; "
                "expected a step in (0, 1] and a temperature > 0"
            )


@dataclass(frozen=True)
class Boosting:
    """What each institution's word weighs is learned, once in an epoch, on images in the bank.

    Attributes:
        rate: by which a weight moves for each batch, > 0.
        decay: of the rate, by epochs, in (0, 1].
        batch: images in a batch, >= 1.
    """

    rate: float
    decay: float
    batch: int = 128

    def __post_init__(self) -> None:
        if not (0 < self.rate < math.inf and 0 < self.decay <= 1 and self.batch >= 1):
            raise SettingsError(
                f"boosting: rate {self.rate}, decay {self.decay}, batch {self.batch}; "
                "expected a rate > 0, a decay in (0, 1] and a batch >= 1"
            )


@dataclass(frozen=True)
class Method:
    """One paper's way to distil without data.

    Attributes:
        name: as users type it.
        paper: citation.
        objective: the generator's terms, each minimised, each with a schedule of weights >= 0.
            Empty where nothing is trained to invent images.
        gradient: where d objective / d images comes from.
        shares: source ("prior", "generator", "evolution", "contrast", "memory") -> schedule of
            its share of the questions; shares are normalised.
        imitation: the student's loss for each sample.
        curriculum: weights of samples in that loss.
        hardness: how hard the generator makes it, in [0, 1]; what a ramp in ``objective`` follows.
        latent: Z, size of the generator's input, >= 1.
        generator_rate: learning rate of the generator's Adam, > 0.
        generator_betas: its momenta.
        epoch: generator steps, >= 1, in what the paper does something once in.
        selection: which answered images enter the bank; None: all.
        generator_until: share of the questions after which the generator learns no more, > 0.
        student_from: share of the questions before which the student learns nothing, in [0, 1).
        canvas: what the generator is.
        rehearsals: generator steps before each of its questions in which the student stands for
            the teachers and nobody is asked; then it learns nothing from the answers. None where 0.
        primer: is taught at ``student_from``; None: nobody is.
        peers: networks like the student, with first weights of their own, that learn from the
            same batches, >= 0; terms may compare them, and in rehearsals they vote with it.
        memory: what source "memory" remembers by.
        reuse: what the latents of one batch hand on to the next.
        discrimination: tells images apart for term distinctness.
        rule: how replies are fused where the plan leaves that open, see `fedkd.aggregation.fusion`.
        inflation: as how many images each collected one is drawn from the bank; they are asked
            about before anything else. 0: nothing is collected.
        critic: how a discriminator of collected and invented images learns; None: there is none.
        impressions: how targets of kept images are drawn around similar classes; None: images of
            a kept batch want one class each.
        neighbours: how generated images are moved and asked about again; None: they are not.
        boosting: how the weights of institutions are learned; None: they have none.
    """

    name: str
    paper: str
    objective: Objective = ()
    gradient: Gradient = NONE
    shares: Mapping[str, Schedule] = field(default_factory=lambda: {"prior": constant(1.0)})
    imitation: Imitation = l1_centred
    curriculum: Curriculum = UNIFORM
    hardness: Schedule = FULL
    latent: int = 64
    generator_rate: float = 1e-3
    generator_betas: tuple[float, float] = (0.9, 0.99)
    epoch: int = 1
    selection: Selection | None = None
    generator_until: float = 1.0
    student_from: float = 0.0
    canvas: SynthesisTarget = NETWORK
    rehearsals: int = 0
    primer: Primer | None = None
    peers: int = 0
    memory: Memory | None = None
    reuse: Reuse | None = None
    discrimination: Discrimination | None = None
    rule: str = "auto"
    inflation: int = 0
    critic: Rivalry | None = None
    impressions: Impressions | None = None
    neighbours: Neighbours | None = None
    boosting: Boosting | None = None

    def __post_init__(self) -> None:
        if self.latent < 1 or not 0 < self.generator_rate < math.inf:
            raise SettingsError(
                f"{self.name}: latent {self.latent}, generator_rate {self.generator_rate}; "
                "expected >= 1 and > 0"
            )
        if self.epoch < 1 or not (0 < self.generator_until <= 1 and 0 <= self.student_from < 1):
            raise SettingsError(
                f"{self.name}: epoch {self.epoch}, generator until {self.generator_until}, student "
                f"from {self.student_from}; expected >= 1 and shares of the questions"
            )
        if self.rehearsals < 0 or (self.rehearsals and not self.gradient.believes_student):
            raise SettingsError(
                f'{self.name}: {self.rehearsals} rehearsals with gradient "{self.gradient.name}"; '
                'expected >= 0, and "student", which alone asks nobody'
            )
        self._fit_together()
        for source, share in self.shares.items():
            _expect_weights(f"{self.name}: share of {source}", share)
        for schedule, term in self.objective:
            _expect_weights(f"{self.name}: weight of {term.name}", schedule)
            beyond = term.needs - {Signal.LOGITS}
            if beyond and not self.gradient.pulls_back:
                raise SettingsError(
                    f"{self.name}: term {term.name} needs the gradient of "
                    f'{", ".join(sorted(beyond))}, which only gradient = "pull_back" gives; '
                    f"choose that, or set the weight of {term.name} to 0"
                )
        if "generator" in self.shares and not self.objective:
            raise SettingsError(f"{self.name}: a generator without terms cannot learn; give one")

    def _fit_together(self) -> None:
        """Raises SettingsError where a part lacks another that it cannot be without."""
        if self.peers < 0:
            raise SettingsError(f"{self.name}: {self.peers} peers; expected >= 0")
        if "contrast" in self.shares and self.primer is None:
            raise SettingsError(f"{self.name}: a contrast without a primer sees nothing; give one")
        if "memory" in self.shares and self.memory is None:
            raise SettingsError(f"{self.name}: source memory has nothing to remember by; give one")
        if self.reuse is not None and self.canvas.kind != "latents":
            raise SettingsError(f"{self.name}: reuse is of latents; canvas is {self.canvas.kind}")
        if self.inflation < 0 or (self.critic and not self.inflation):
            raise SettingsError(
                f"{self.name}: collected images count {self.inflation} times; expected "
                ">= 0, and >= 1 beside a critic, which has nothing to learn without them"
            )
        if self.impressions and self.canvas.kind != "pixels":
            raise SettingsError(f'{self.name}: impressions need a canvas of "pixels"; choose it')
        if self.neighbours and not self.gradient.pulls_back:
            raise SettingsError(
                f'{self.name}: neighbours need the slope of answers; choose gradient "pull_back"'
            )
        classes = self.canvas.per_batch and not self.impressions
        if self.boosting and (self.rule != "mean_logits" or not classes):
            raise SettingsError(
                f"{self.name}: boosting weighs a mean of logits by the classes that kept images "
                'want; choose rule "mean_logits", and a canvas of latents or pixels'
            )

    @property
    def needs(self) -> frozenset[Signal]:
        """Signals asked for when a generator's images are put to the teachers."""
        return frozenset({Signal.LOGITS}).union(*(term.needs for _, term in self.objective))

    @property
    def trains(self) -> bool:
        """Whether a generator is trained."""
        return "generator" in self.shares

    @property
    def cost(self) -> int:
        """Samples asked for each image of a generator step, >= 1."""
        further = self.gradient.questions + (self.neighbours is not None)
        return 1 + further if self.trains else 1

    def rule_for(self, told: str) -> str:
        """How replies are fused: as a plan tells, or by the method's own rule where that is auto.

        Raises:
            SettingsError: weights are learned for the method's rule, and the plan tells another.
        """
        if told != "auto" and self.boosting and told != self.rule:
            raise SettingsError(
                f"{self.name} learns the weights of {self.rule}, and the rule is {told}; leave "
                "questions.rule at auto"
            )
        return self.rule if told == "auto" else told

    def check(self, cards: tuple[Card, ...] | list[Card]) -> None:
        """Hold the method's needs against what institutions release, before the first question.

        Raises:
            NeedsError: naming the term, the signal and the institution.
        """
        for card in cards:
            for _, term in self.objective:
                if missing := term.needs - card.signals:
                    raise NeedsError(
                        f"{self.name} needs {', '.join(sorted(missing))} (term {term.name}), which "
                        f"{card.name} does not release; choose another method, or ask the owner "
                        "to name it under policy.signals"
                    )
            if self.trains and self.gradient.pulls_back and not card.pull_back:
                raise NeedsError(
                    f"{self.name} needs gradients (pull_back), which {card.name} does not "
                    "release; choose another gradient, or ask the owner for policy.pull_back = true"
                )
            if Signal.LOGITS not in card.signals:
                raise NeedsError(f"{self.name} needs logits, which {card.name} does not release")


def _expect_weights(what: str, schedule: Schedule) -> None:
    """Every term is minimised, so that a weight below 0 would turn its meaning round."""
    for progress in CHECKED:
        if not 0 <= schedule(progress) < math.inf:
            raise SettingsError(
                f"{what} is {schedule(progress)} at {progress:.0%} of the run; "
                "expected a finite number >= 0"
            )
