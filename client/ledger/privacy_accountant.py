"""Privacy accountant: charge DP trainings, hold the spending of a data set against the policy.

It is opened before the teacher: a training with differential privacy is charged before it begins,
and an institution that has spent more than its policy grants does not serve. Then it says which
budget is left for answers, and which guarantee the card may state for all releases together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fedkd.client.ledger.answer_cache import PrivacyCost
from fedkd.client.ledger.dataset_privacy_spending import DpTraining
from fedkd.client.ledger.ledger import Ledger
from fedkd.errors import SettingsError
from fedkd.privacy import MODES, Policy, Spending, epsilon_of_rho
from fedkd.protocol import Guarantee

COMPOSED = "and all before it"
"""Suffix of a guarantee's mechanism where it also covers earlier releases."""


@dataclass(frozen=True)
class PrivacyAccountant:
    """The account of one data set under one policy; see `PrivacyAccountant.open`."""

    policy: Policy
    data_set: str
    """Its name in the ledger."""
    spent: Spending
    """When the account was opened, the training of this teacher included."""
    training: DpTraining | None = None
    """The DP training that this teacher is charged for."""

    @classmethod
    def open(
        cls,
        ledger: Ledger,
        policy: Policy,
        fingerprints: Iterable[bytes],
        training: DpTraining | None,
        earlier_trainings: Sequence[DpTraining] = (),
    ) -> "PrivacyAccountant":
        """Register the data set and charge the teacher's training, before the teacher is opened.

        Args:
            ledger: the owner's.
            policy: the owner's.
            fingerprints: digests of the samples; none where they are unknown.
            training: the DP training that the teacher comes from, or will come from.
            earlier_trainings: of the models that this training starts from; charged with it.

        Raises:
            SettingsError: after what was spent, the mode cannot give its guarantee any more.
            DataError: the ledger cannot be read or written.
        """
        data_set = ledger.dataset_accounts.register(fingerprints)
        if MODES[policy.mode].charged:
            # Every answer has noise of its own, however the teacher was trained.
            training = None
        trainings = [] if training is None else [*earlier_trainings, training]
        allowed = ledger.charge_trainings(trainings, data_set, policy)
        spent = ledger.dataset_accounts.spending(data_set)
        if training is not None and not allowed:
            wanted = " and ".join(f"epsilon {t.epsilon:g} at delta {t.delta:g}" for t in trainings)
            raise SettingsError(
                f"a training of {wanted} is more "
                f"than policy.budget, {policy.budget}, has left: {_spent_text(spent)} on these "
                "images; both numbers add up, so grant the sums, or serve the teacher that there is"
            )
        _check(policy, spent)
        return cls(policy, data_set, spent, training)

    @property
    def answer_policy(self) -> Policy:
        """The policy for answers: its budget is what the trainings have left of the owner's."""
        budget = self.policy.budget
        if budget is None or not MODES[self.policy.mode].charged:
            return self.policy
        return replace(self.policy, budget=budget.remaining_after(self.spent))

    def total_guarantee(self, release: Guarantee | None) -> Guarantee | None:
        """The guarantee on the card: of these answers with all earlier releases of the data set.

        Args:
            release: the guarantee of the release mode alone; None where it gives none.
        """
        if release is None:
            return None
        epsilon, delta = float(self.spent.epsilon), float(self.spent.delta)
        if self.training is not None:
            # The training's accounted epsilon is tighter than the target that was charged.
            others = self.spent.without_training(self.training.epsilon, self.training.delta)
            epsilon, delta = float(others.epsilon), float(others.delta)
            if rho := self.spent.micro_rho:
                budget = self.policy.budget
                rest = None if budget is None else budget.remaining_after(self.spent)
                at = release.delta if rest is None else rest.delta
                epsilon, delta = epsilon + epsilon_of_rho(rho, at), delta + at
        total = replace(release, unpromised=self.spent.unpromised)
        if not epsilon:
            return total
        return replace(
            total,
            epsilon=release.epsilon + epsilon,
            delta=release.delta + delta,
            mechanism=f"{release.mechanism} {COMPOSED}",
        )


def privacy_cost(policy: Policy, keys: tuple[bytes, ...], per_answer: int) -> PrivacyCost | None:
    """The privacy cost of a query; None where answers cost no privacy.

    Args:
        policy: the owner's.
        keys: see `PrivacyCost`.
        per_answer: micro-rho of one answer.
    """
    mode, budget = MODES[policy.mode], policy.budget
    if budget is None or not mode.charged:
        return None
    return PrivacyCost(
        keys, per_answer, partial(budget.limit, whole_data_set=mode.protects_data_set)
    )


def _check(policy: Policy, spent: Spending) -> None:
    """Raise where the policy's mode can no longer give its guarantee."""
    mode, budget = MODES[policy.mode], policy.budget
    if mode.protects_data_set and (spent.image_rho or spent.trainings):
        raise SettingsError(
            f"policy.mode {policy.mode} protects the whole data set, and {_spent_text(spent)} on "
            "these images, some of it for guarantees of one image alone; choose pate or dp-teacher"
        )
    if budget is None:
        return
    if mode.charged:
        limit = budget.limit(spent, mode.protects_data_set)
        if spent.micro_rho > limit or not limit:
            raise SettingsError(
                f"policy.budget grants {limit} micro-rho and {_spent_text(spent)} on these images; "
                "what was released cannot be guaranteed for less, so grant more"
            )
    elif not budget.covers(spent):
        raise SettingsError(
            f"policy.budget grants {budget} and {_spent_text(spent)} on these images; what was "
            "released cannot be guaranteed for less, so grant more"
        )


def _spent_text(spent: Spending) -> str:
    parts = [f"{spent.micro_rho} micro-rho"] if spent.micro_rho or not spent.trainings else []
    if spent.trainings:
        parts.append(
            f"epsilon {float(spent.epsilon):g} at delta {float(spent.delta):g} of trainings"
        )
    return f"{' and '.join(parts)} are spent"
