"""What an institution's images have spent, in whichever mode, held against its policy.

It is opened before the teacher is: a private training is charged here before it begins, and nobody
serves who has spent more than he promises. Then it says what is left to answer with, and what the
card may promise of all of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from fedkd.client.ledger.answer_cache import Price
from fedkd.client.ledger.dataset_accounts import Training
from fedkd.client.ledger.ledger import Ledger
from fedkd.errors import SettingsError
from fedkd.privacy.accounting import epsilon_of_rho
from fedkd.privacy.budget import Spending
from fedkd.privacy.release_policy import MODES, Policy
from fedkd.protocol.guarantee import Guarantee

COMPOSED = "and all before it"
"""Ends the name of a mechanism where more than that is promised of."""


@dataclass(frozen=True)
class Account:
    """Of one data set under one policy; see `Account.of`."""

    policy: Policy
    data_set: str
    """Name in the books."""
    spent: Spending
    """When it was opened, the training of this teacher included."""
    training: Training | None = None
    """The one that this teacher is charged for."""

    @classmethod
    def of(
        cls,
        ledger: Ledger,
        policy: Policy,
        fingerprints: Iterable[bytes],
        training: Training | None,
    ) -> "Account":
        """Charge what is to be charged before the teacher is opened.

        Args:
            ledger: the owner's books.
            policy: his word.
            fingerprints: of the images; none where nobody knows them.
            training: that the teacher comes from, or will.

        Raises:
            SettingsError: the mode cannot promise what it would, after what was spent.
            DataError: the books cannot be read or written.
        """
        data_set = ledger.data_sets.enrol(fingerprints)
        if MODES[policy.mode].charged:
            # All that is told of the teacher has noise of its own, whatever it was trained by.
            training = None
        allowed = training is None or ledger.train(training, data_set, policy)
        spent = ledger.data_sets.spending(data_set)
        if training is not None and not allowed:
            raise SettingsError(
                f"a training of epsilon {training.epsilon:g} at delta {training.delta:g} is more "
                f"than policy.budget, {policy.budget}, has left: {_said(spent)} on these images; "
                "both numbers add up, so grant the sums, or serve the teacher that there is"
            )
        _check(policy, spent)
        return cls(policy, data_set, spent, training)

    @property
    def word(self) -> Policy:
        """The policy by which answers are made: its budget is what trainings have left of it."""
        budget = self.policy.budget
        if budget is None or not MODES[self.policy.mode].charged:
            return self.policy
        return replace(self.policy, budget=budget.beside(self.spent))

    def promise(self, promised: Guarantee | None) -> Guarantee | None:
        """What the card may say: of these answers, with all that was spent on the images before.

        Args:
            promised: by the release alone; None where nothing is.
        """
        if promised is None:
            return None
        epsilon, delta = float(self.spent.epsilon), float(self.spent.delta)
        if self.training is not None:
            # What its steps have come to is known better than what was charged before them.
            others = self.spent.without(self.training.epsilon, self.training.delta)
            epsilon, delta = float(others.epsilon), float(others.delta)
            if rho := self.spent.micro_rho:
                budget = self.policy.budget
                rest = None if budget is None else budget.beside(self.spent)
                at = promised.delta if rest is None else rest.delta
                epsilon, delta = epsilon + epsilon_of_rho(rho, at), delta + at
        told = replace(promised, unpromised=self.spent.unpromised)
        if not epsilon:
            return told
        return replace(
            told,
            epsilon=promised.epsilon + epsilon,
            delta=promised.delta + delta,
            mechanism=f"{promised.mechanism} {COMPOSED}",
        )


def price_of(policy: Policy, rows: tuple[bytes, ...], each: int) -> Price | None:
    """Of a question; None where answers cost no privacy.

    Args:
        policy: the owner's word.
        rows: see `Price`.
        each: micro-rho of one answer.
    """
    mode, budget = MODES[policy.mode], policy.budget
    if budget is None or not mode.charged:
        return None
    return Price(rows, each, partial(budget.limit, whole=mode.whole))


def _check(policy: Policy, spent: Spending) -> None:
    """Raise where the policy's mode can no longer promise what it would."""
    mode, budget = MODES[policy.mode], policy.budget
    if mode.whole and (spent.image_rho or spent.trainings):
        raise SettingsError(
            f"policy.mode {policy.mode} promises the whole data set, and {_said(spent)} on these "
            "images, some of it for promises of one image alone; choose pate or dp-teacher"
        )
    if budget is None:
        return
    if mode.charged:
        limit = budget.limit(spent, mode.whole)
        if spent.micro_rho > limit or not limit:
            raise SettingsError(
                f"policy.budget grants {limit} micro-rho and {_said(spent)} on these images; what "
                "was told cannot be promised less for, so grant more"
            )
    elif not budget.covers(spent):
        raise SettingsError(
            f"policy.budget grants {budget} and {_said(spent)} on these images; what was told "
            "cannot be promised less for, so grant more"
        )


def _said(spent: Spending) -> str:
    said = [f"{spent.micro_rho} micro-rho"] if spent.micro_rho or not spent.trainings else []
    if spent.trainings:
        said.append(
            f"epsilon {float(spent.epsilon):g} at delta {float(spent.delta):g} of trainings"
        )
    return f"{' and '.join(said)} are spent"
