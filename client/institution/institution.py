"""An institution: its vault, release policy, ledger and release gate; it answers queries.

Its card is all that it discloses unasked. Its answers leave through the release gate.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import torch
from torch import nn

from fedkd.client.ledger.ledger import Ledger
from fedkd.client.ledger.privacy_accountant import PrivacyAccountant
from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import build_release_mode
from fedkd.client.release.release_mode import ReleaseMode
from fedkd.client.vault.vault import Vault
from fedkd.errors import SettingsError
from fedkd.models import Teacher
from fedkd.privacy import MODES, Policy
from fedkd.protocol import (
    RECIPE_VERSION,
    Ask,
    Card,
    PullBack,
    Recipe,
    Refusal,
    Reply,
    Signal,
    task_slices,
)
from fedkd.tasks import NumberSums, TaskCounts

FINGERPRINT_PROBES = 64
"""Samples by whose outputs a teacher is told from another one."""


class Institution:
    """A vault behind a release gate.

    Args:
        name: under which coordinators know it.
        vault: private.
        policy: the owner's.
        ledger: the owner's. Other agents of his may share it, and he closes it; None keeps one in
            memory.

    Raises:
        SettingsError: the policy grants what the vault does not have, or less than was spent.
        DataError: the teacher, its data or the ledger cannot be opened.
    """

    def __init__(
        self, name: str, vault: Vault, policy: Policy, ledger: Ledger | None = None
    ) -> None:
        self._vault, self._policy = vault, policy
        self._ledger = Ledger(None) if ledger is None else ledger
        release, account = open_release(vault, policy, self._ledger)
        self.card = Card(
            name,
            vault.classes,
            policy.shape or vault.shape,
            release.signals,
            release.pull_back,
            policy.samples,
            policy.largest_batch,
            vault.class_counts if policy.class_counts else None,
            policy.scores,
            None if vault.tasks else vault.class_names,
            account.total_guarantee(release.guarantee),
            RECIPE_VERSION if policy.recipes else 0,
            vault.columns,
            vault.numbers,
            version("fedkd"),
            vault.tasks,
            vault.embedding,
            batch_statistics=release.batch_statistics,
        )
        self.teacher_fingerprint = _teacher_fingerprint(vault.teacher, self.card.shape)
        """By this the ledger knows which teacher has answered."""
        self._gate = ReleaseGate(
            policy, release, self.card, self._ledger, self.teacher_fingerprint, account.data_set
        )

    def answer(self, request: Ask | PullBack, server: str = "") -> Reply | Refusal:
        """What the release gate answers to ``server``, host:port; never raises."""
        return self._gate.answer(request, server)

    def recipe_refusal(
        self,
        recipe: Recipe,
        signals: frozenset[Signal],
        batch_statistics: bool = False,
        server: str = "",
    ) -> Refusal | None:
        """Why the release gate has a recipe not rendered; None where it may be. Never raises."""
        return self._gate.recipe_refusal(recipe, signals, batch_statistics, server)

    def record_unrendered(
        self, recipe: Recipe, signals: frozenset[Signal], refusal: Refusal, server: str = ""
    ) -> None:
        """Log in the ledger that a recipe was not rendered, or not to the images it should be."""
        self._gate.record_unrendered(recipe, signals, refusal, server)

    def score(
        self, model: nn.Module, names: Sequence[str] | None = None
    ) -> tuple[int, int] | NumberSums | TaskCounts | Refusal | None:
        """A student's (correct, of how many) on private test data; None if the policy forbids it.

        Of numbers, sums by which R^2 and errors of all institutions together are told; of several
        tasks, counts of right answers in each.

        A score is a release, so it is recorded in the ledger first.

        Args:
            model: the student.
            names: of its outputs; None: they are the institution's own.

        Returns:
            A refusal, fit for the other side, where the policy allows no further student.
        """
        if not self._policy.scores:
            return None
        student = _student_fingerprint(model, names, self.teacher_fingerprint)
        refusal = self._ledger.charge_evaluation(student, self._policy)
        if refusal is not None:
            return refusal
        vault = self._vault
        if vault.numbers:
            return vault.number_sums(model, names)
        return vault.task_counts(model, names) if vault.tasks else vault.score(model, names)

    @property
    def totals(self) -> Mapping[str, int]:
        """Samples ``asked`` and ``pulled_back``, students ``examined``, and queries ``refused``.

        Raises:
            DataError: the ledger cannot be read.
        """
        return vars(self._gate.totals)


def open_release(
    vault: Vault, policy: Policy, ledger: Ledger
) -> tuple[ReleaseMode, PrivacyAccountant]:
    """The release mode of a policy, with the account that it is charged to.

    A training with differential privacy is charged before the teacher is opened.

    Raises:
        SettingsError: see `Institution`.
        DataError: likewise.
    """
    _check_policy(vault, policy)
    account = PrivacyAccountant.open(
        ledger, policy, vault.fingerprints, vault.dp_training, vault.earlier_dp_trainings
    )
    release = build_release_mode(
        account.answer_policy,
        vault.teacher,
        vault.guarantee,
        numbers=bool(vault.numbers),
        groups=tuple(task_slices(vault.tasks).values()),
    )
    return release, account


def _teacher_fingerprint(teacher: Teacher, shape: tuple[int, int, int]) -> bytes:
    """A digest of the teacher's outputs for fixed samples; another teacher has another.

    Of many samples, since two trees may well agree on one.
    """
    random = torch.Generator().manual_seed(0)
    probes = torch.rand(FINGERPRINT_PROBES, *shape, generator=random)
    try:
        signal = Signal.LOGITS if Signal.LOGITS in teacher.signals else Signal.FEATURES
        outputs = teacher.ask(probes, frozenset({signal}))[signal]
        return hashlib.blake2b(outputs.numpy().tobytes(), digest_size=16).digest()
    except Exception:  # then nothing that was answered before counts as a repeat
        return secrets.token_bytes(16)


def _student_fingerprint(
    model: nn.Module, classes: Sequence[str] | None, teacher_fingerprint: bytes
) -> str:
    """A digest of the student's weights and classes, keyed by this institution's teacher."""
    content = hashlib.blake2b(
        repr((str(model), classes)).encode(), key=teacher_fingerprint, digest_size=16
    )
    for name, tensor in model.state_dict().items():
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return content.hexdigest()


def _check_policy(vault: Vault, policy: Policy) -> None:
    """Raise where the policy grants what the vault does not have."""
    if policy.class_counts and vault.class_counts is None:
        raise SettingsError(
            "policy.class_counts is on and those of an external teacher are not known; turn it off"
        )
    if vault.embedding and (MODES[policy.mode].charged or policy.reduced):
        raise SettingsError(
            "policy.mode pate and local-dp, labels, top_k and rounding are of logits, and this "
            "teacher outputs an embedding; release features or relations without them, or nothing"
        )
    if vault.numbers and policy.reduced:
        raise SettingsError(
            "policy.labels, top_k and rounding are of classes, and this teacher predicts numbers; "
            "leave them out"
        )
    if policy.top_k is not None and policy.top_k >= vault.classes:
        raise SettingsError(
            f"policy.top_k = {policy.top_k} hides none of {vault.classes} classes; name fewer, or "
            "leave it out"
        )
    if policy.scores and not vault.scores:
        raise SettingsError(
            "policy.scores is on and there are no test data; name them under [data], or turn it off"
        )
