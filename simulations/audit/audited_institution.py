"""Institutions at the two ends of a claim, and what leaves their doors. Knows no statistics.

The teacher is placed: whatever it is, a mode has to hide it, so it is the worst that there is. All
else is an institution as it serves: its policy, its books, its door, its noise. It is asked about
images that it was never asked about, in books that nobody wrote in.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from fedkd.client.institution import Institution
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.vault.pate_ensemble import PateEnsemble
from fedkd.client.vault.vault import Vault
from fedkd.errors import NeedsError, SettingsError
from fedkd.models import Teacher
from fedkd.privacy import Budget, Policy
from fedkd.protocol import Ask, Refusal, Signal

SHAPE = (1, 1, 4)
"""Of the images: 2^32 of them differ."""
PLENTY = Budget(1e5)
"""Pays for as many answers as an audit has time for."""


@dataclass(frozen=True)
class Said:
    """A teacher that says the same of every image."""

    logits: Tensor
    """(K,)."""

    signals = frozenset({Signal.LOGITS})
    differentiable = False

    @property
    def classes(self) -> int:
        """K."""
        return len(self.logits)

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `fedkd.models.teacher.Teacher.ask`."""
        return {Signal.LOGITS: self.logits.expand(len(images), -1).clone()}

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """Always raises.

        Raises:
            NeedsError: it has no gradient.
        """
        raise NeedsError("what is always the same has no gradient")


class Placed(Vault):
    """A vault with a teacher that somebody put there, and with no image."""

    shape = SHAPE
    class_names = None
    class_counts = None
    scores = False
    fingerprints = ()
    training = None
    guarantee = None

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    @property
    def teacher(self) -> Teacher:
        """As it was placed."""
        return self._teacher

    @property
    def classes(self) -> int:
        """Of the teacher."""
        return self._teacher.classes

    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """Of no images."""
        return 0, 0


def electorate(votes: Tensor) -> PateEnsemble:
    """Voters of whom so many name each class, (K,) -> a committee."""
    ballots = torch.eye(len(votes))
    voters = [Said(ballots[k]) for k, count in enumerate(votes.tolist()) for _ in range(count)]
    return PateEnsemble(voters, len(votes))


@dataclass(frozen=True)
class Doors:
    """A mode with its noise, whichever teacher is behind it."""

    mode: str
    noise: Fraction
    clipping: Fraction = Fraction(1)
    placed: Callable[[Tensor], Teacher] = Said
    """A teacher from what is to be hidden."""

    def told(self, hidden: Tensor, count: int) -> Tensor:
        """(count, K) of what an institution tells that hides this.

        Raises:
            SettingsError: it refuses.
        """
        return self._asked(hidden, count)[0]

    def charge(self, hidden: Tensor) -> int:
        """Micro-rho that the books of such an institution are charged for one answer."""
        return self._asked(hidden, 1)[1]

    def _asked(self, hidden: Tensor, count: int) -> tuple[Tensor, int]:
        policy = Policy(
            mode=self.mode,
            noise=self.noise,
            clipping=self.clipping,
            budget=PLENTY,
            largest_batch=count,
        )
        with closing(Ledger(None)) as books:
            institution = Institution("audited", Placed(self.placed(hidden)), policy, books)
            said = institution.answer(Ask(_images(count), exact=True))
            if isinstance(said, Refusal):
                raise SettingsError(f"mode {self.mode} refused the audit: {said.text}")
            (spent,) = books.data_sets.each().values()
            return said.signals[Signal.LOGITS], spent.micro_rho


def _images(count: int) -> Tensor:
    """So many that differ, (B, *SHAPE) uint8."""
    numbers = torch.arange(count)[:, None] >> torch.tensor([0, 8, 16, 24])
    return (numbers & 255).to(torch.uint8).view(-1, *SHAPE)
