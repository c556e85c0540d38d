"""Institutions with a chosen teacher for privacy audits: what they release and charge.

A release mode must hide any teacher, so the teacher is the worst case. All else is as in service:
policy, ledger, release gate, noise. The ledger is new, and the images were never asked about.
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
AMPLE_BUDGET = Budget(1e5)
"""Privacy budget for more answers than an audit asks."""


@dataclass(frozen=True)
class ConstantTeacher:
    """A teacher with the same logits for every image."""

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
        raise NeedsError("a constant teacher has no gradient")


class FixedTeacherVault(Vault):
    """A vault with a given teacher and no images."""

    shape = SHAPE
    class_names = None
    class_counts = None
    scores = False
    fingerprints = ()
    dp_training = None
    guarantee = None

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    @property
    def teacher(self) -> Teacher:
        """The given teacher."""
        return self._teacher

    @property
    def classes(self) -> int:
        """Of the teacher."""
        return self._teacher.classes

    def score(self, model: nn.Module, classes: Sequence[str] | None = None) -> tuple[int, int]:
        """No images, none right."""
        return 0, 0


def pate_ensemble_of_votes(votes: Tensor) -> PateEnsemble:
    """A PATE ensemble with so many votes for each class, (K,)."""
    ballots = torch.eye(len(votes))
    voters = [
        ConstantTeacher(ballots[k]) for k, count in enumerate(votes.tolist()) for _ in range(count)
    ]
    return PateEnsemble(voters, len(votes))


@dataclass(frozen=True)
class AuditedInstitution:
    """An institution with a release mode and its noise, for any teacher."""

    mode: str
    noise: Fraction
    clipping: Fraction = Fraction(1)
    make_teacher: Callable[[Tensor], Teacher] = ConstantTeacher
    """Makes the teacher from the secret input."""

    def released(self, secret: Tensor, count: int) -> Tensor:
        """(count, K) logits that an institution with this secret input releases.

        Raises:
            SettingsError: it refuses to answer.
        """
        return self._answer(secret, count)[0]

    def charge(self, secret: Tensor) -> int:
        """Micro-rho that its ledger is charged for one answer."""
        return self._answer(secret, 1)[1]

    def _answer(self, secret: Tensor, count: int) -> tuple[Tensor, int]:
        policy = Policy(
            mode=self.mode,
            noise=self.noise,
            clipping=self.clipping,
            budget=AMPLE_BUDGET,
            largest_batch=count,
        )
        with closing(Ledger(None)) as ledger:
            institution = Institution(
                "audited", FixedTeacherVault(self.make_teacher(secret)), policy, ledger
            )
            reply = institution.answer(Ask(_images(count), exact=True))
            if isinstance(reply, Refusal):
                raise SettingsError(f"mode {self.mode} refused the audit: {reply.text}")
            (spending,) = ledger.dataset_accounts.all_spending().values()
            return reply.signals[Signal.LOGITS], spending.micro_rho


def _images(count: int) -> Tensor:
    """So many different images, (B, *SHAPE) uint8."""
    numbers = torch.arange(count)[:, None] >> torch.tensor([0, 8, 16, 24])
    return (numbers & 255).to(torch.uint8).view(-1, *SHAPE)
