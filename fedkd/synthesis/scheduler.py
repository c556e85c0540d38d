"""Who invents the next images, and that they are new. Knows no answer and no institution."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.compute import Compute
from fedkd.core.plan import Plan
from fedkd.core.state import Part
from fedkd.errors import SettingsError
from fedkd.methods.method import Method
from fedkd.procedural import Prior
from fedkd.synthesis.contrastive_pixels import Contrasted
from fedkd.synthesis.generative_replay import Remembered
from fedkd.synthesis.generator_training import Invention
from fedkd.synthesis.public_samples import Collected
from fedkd.synthesis.sources import Drawn, Evolved, PriorChoice, Source, to_bytes

ATTEMPTS = 8
"""Draws of a batch before a source is taken to have nothing new to ask."""


@dataclass(frozen=True, eq=False)
class Invented:
    """A batch to ask about."""

    source: Source
    drawn: Drawn
    """As it was invented, with its graph where it has one."""
    images: Tensor
    """(B, C, H, W) uint8, as it is asked about; no image was before."""
    rehearsed: Mapping[str, float] = field(default_factory=dict)
    """Values of a generator's terms, where it took steps for it in which nobody was asked."""


class Inventors:
    """The sources of a run, and whose turn it is.

    Args:
        method: says what share of the questions each source gets.
        plan: how much may be asked.
        priors: procedural images, by name.
        shape: (C, H, W).
        classes: K.
        bank: its images are never asked about again; of some, new ones are made.
        student: whom images are to be hard for.
        peers: of the student.
        primer: in whose eyes images are moved apart; None: there is none.
        collected: images of the coordinator's own, (N, C, H, W) uint8, which come first; or None.
        seed: of what is drawn, and of networks that a source trains.
        compute: where those are, beside the student.
    """

    def __init__(
        self,
        method: Method,
        plan: Plan,
        priors: Mapping[str, Prior],
        *,
        shape: tuple[int, int, int],
        classes: int,
        bank: Bank,
        student: nn.Module,
        peers: Iterable[nn.Module],
        primer: nn.Module | None,
        collected: Tensor | None,
        seed: int,
        compute: Compute,
    ) -> None:
        self.method, self.plan, self.bank = method, plan, bank
        self._student, self._compute = student, compute
        self.rng = torch.Generator().manual_seed(seed)
        self.prior = PriorChoice(priors, shape)
        self.invention: Invention | None = None
        """The generator, where one is trained."""
        self.sources: dict[str, Source] = {
            "prior": self.prior,
            "evolution": Evolved(bank, self.prior, self._difficulty),
        }
        self.parts: dict[str, Part] = {"rng": self.rng, "prior": self.prior}
        """All of it that changes, by the name that it has in a state."""
        if primer is not None and (eyes := method.primer):
            contrast = self.sources["contrast"] = Contrasted(
                bank, primer, shape, eyes.contrast_steps, eyes.contrast_rate, seed
            )
            self.parts["discriminator"] = contrast.discriminator
        if memory := method.memory:
            remembered = Remembered(memory, method.latent, bank, student, shape, seed)
            self.sources["memory"] = self.parts["remembered"] = remembered
        self._collected: Collected | None = None
        if collected is not None:
            self._collected = self.parts["collected"] = Collected(collected, bank)
        if method.trains:
            self.invention = Invention(
                *(method, student, shape, seed, plan.batch, classes),
                *(compute, peers, self._collected),
            )
            self.invention.begin(self.rng)
            self.parts |= self.invention.parts
            self.sources["generator"] = self.invention.source

    def learning(self, asked: int) -> bool:
        """Whether a generator still learns once so many samples were asked about."""
        return self.method.trains and asked < self.method.generator_until * self.plan.budget

    def draw(self, asked: int, progress: float) -> Invented:
        """The next batch. A source that has nothing new gives its turn to another.

        Args:
            asked: samples so far.
            progress: of the run, in [0, 1].

        Raises:
            SettingsError: none of them has.
        """
        learning, left = self.learning(asked), self.plan.budget - asked
        count = min(self.plan.batch, left // (self.method.cost if learning else 1))
        turns: dict[str, Source]
        if self._collected and self._collected.left:
            turns, count = {"collected": self._collected}, min(self.plan.batch, left)
        elif count == 0:  # what is left does not pay for a generator step
            turns, count = {"prior": self.prior}, left
        else:
            turns = self._turns(asked)
        rehearsed: Mapping[str, float] = {}
        for source in turns.values():
            if self.invention and source is self.invention.source:
                self.invention.source.learning = learning and not self.method.rehearsals
                if learning and self.method.rehearsals:
                    rehearsed = self.invention.rehearse(count, progress, self.rng)
            if invented := self._new(source, count):
                return replace(invented, rehearsed=rehearsed)
        raise SettingsError(
            f"{' and '.join(turns)} drew only images that were asked about before; "
            "name more priors, or ask for fewer samples"
        )

    def _new(self, source: Source, count: int) -> Invented | None:
        """What it draws that nobody was asked about, if there is any."""
        for _ in range(ATTEMPTS):
            drawn = source.draw(count, self.rng)
            images = to_bytes(drawn.images)
            fresh = self.bank.fresh(images)
            if bool(fresh.all()):
                return Invented(source, drawn, images)
            if bool(fresh.any()):
                return Invented(source, drawn.only(fresh), images[fresh])
        return None

    def _turns(self, asked: int) -> dict[str, Source]:
        """Whose turn it is, by lot, and who comes where that has nothing: larger shares first."""
        names, share = list(self.method.shares), asked / self.plan.budget
        shares = torch.tensor([self.method.shares[name](share) for name in names])
        first = int(torch.multinomial(shares, 1, generator=self.rng))
        others = shares.argsort(descending=True, stable=True).tolist()
        order = [first, *(i for i in others if i != first and shares[i] > 0)]
        return {names[i]: self.sources[names[i]] for i in order}

    @torch.no_grad()
    def _difficulty(self, images: Tensor, targets: Tensor) -> Tensor:
        """The student's loss on each image, (B,)."""
        self._student.eval()
        return self.method.imitation(self._compute.say(self._student, images), targets)
