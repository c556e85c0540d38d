"""An institution in one piece: vault, policy, books and door. Knows no network, no coordinator.

What is told to the world is its card; what is answered goes through its door.
"""

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch
from torch import nn

from fedkd.client.config.owner_config import DataTable, OwnerConfig, TeacherTable
from fedkd.client.config.state_folder import prepared
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.ledger.privacy_accountant import PrivacyAccountant
from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import release
from fedkd.client.vault.assets import Assets
from fedkd.client.vault.external_vault import ExternalVault
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.training.settings import DpSgdSettings, ProgressCallback, SupervisedSettings
from fedkd.client.vault.vault import Vault
from fedkd.core.augmentation import Views
from fedkd.errors import DataError, SettingsError
from fedkd.experiment import Experiment
from fedkd.models import Teacher
from fedkd.privacy import MODES, Budget, Policy
from fedkd.protocol import RECIPE_VERSION, Ask, Card, PullBack, Refusal, Reply, Signal


class Institution:
    """Holds a vault behind a door.

    Args:
        name: under which it is known.
        vault: private.
        policy: the owner's word.
        ledger: his books, which may be shared with other agents of his and are his to close; None
            keeps them in memory.

    Raises:
        SettingsError: the policy promises what the vault does not have, or less than was spent.
        DataError: the teacher or its data cannot be opened, or the books cannot be read.
    """

    def __init__(
        self, name: str, vault: Vault, policy: Policy, ledger: Ledger | None = None
    ) -> None:
        _keeps_its_word(vault, policy)
        self._vault, self._policy = vault, policy
        books = self._ledger = Ledger(None) if ledger is None else ledger
        account = PrivacyAccountant.of(books, policy, vault.fingerprints, vault.training)
        teacher = vault.teacher
        released = release(account.word, teacher, vault.guarantee)
        self.card = Card(
            name,
            vault.classes,
            policy.shape or vault.shape,
            released.signals,
            released.pull_back,
            policy.samples,
            policy.largest_batch,
            vault.class_counts if policy.class_counts else None,
            policy.scores,
            vault.class_names,
            account.promise(released.guarantee),
            RECIPE_VERSION if policy.recipes else 0,
        )
        self.mark = _mark(teacher, self.card.shape)
        """Of its teacher: the books tell by it who has answered."""
        self._door = ReleaseGate(policy, released, self.card, books, self.mark, account.data_set)

    def answer(self, request: Ask | PullBack, server: str = "") -> Reply | Refusal:
        """What the door lets out to ``server``, host:port; never raises."""
        return self._door.answer(request, server)

    def score(
        self, model: nn.Module, classes: Sequence[str] | None = None
    ) -> tuple[int, int] | Refusal | None:
        """A student's (right, of how many) on private test images; None if that is not told.

        A score is a release, so it is entered in the books first.

        Args:
            model: the student.
            classes: names of its outputs; None: they are the institution's own.

        Returns:
            A refusal, fit for the other side, where the policy lets no further student sit.
        """
        if not self._policy.scores:
            return None
        student = _fingerprint(model, classes, self.mark)
        refusal = self._ledger.charge_evaluation(student, self._policy)
        return self._vault.score(model, classes) if refusal is None else refusal

    @property
    def tally(self) -> Mapping[str, int]:
        """Samples ``asked`` and ``pulled_back``, students ``examined``, and what was ``refused``.

        Raises:
            DataError: the books cannot be read.
        """
        return vars(self._door.tally)


def _mark(teacher: Teacher, shape: tuple[int, int, int]) -> bytes:
    """What tells this teacher from one that is trained anew, by what it says of one ramp."""
    ramp = torch.linspace(0, 1, shape[0] * shape[1] * shape[2]).view(1, *shape)
    try:
        said = teacher.ask(ramp, frozenset({Signal.LOGITS}))[Signal.LOGITS]
        return hashlib.blake2b(said.numpy().tobytes(), digest_size=16).digest()
    except Exception:  # then nothing that was answered before counts as a repeat
        return secrets.token_bytes(16)


def _fingerprint(model: nn.Module, classes: Sequence[str] | None, mark: bytes) -> str:
    """What tells this student from any other, and its examination here from one elsewhere."""
    content = hashlib.blake2b(repr((str(model), classes)).encode(), key=mark, digest_size=16)
    for name, tensor in model.state_dict().items():
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return content.hexdigest()


def _keeps_its_word(vault: Vault, policy: Policy) -> None:
    if policy.class_counts and vault.class_counts is None:
        raise SettingsError(
            "policy.class_counts is on and a brought teacher's are not known; turn it off"
        )
    if policy.scores and not vault.scores:
        raise SettingsError(
            "policy.scores is on and there are no test data; name them under [data], or turn it off"
        )


def holding(experiment: Experiment, index: int) -> Assets:
    """What simulated institution ``index`` has."""
    i = experiment.institutions
    return Assets(
        data=i.data,
        root=i.root,
        index=index,
        count=i.count,
        partition=i.partition,
        alpha=i.alpha,
        shards=i.shards,
        partition_file=i.partition_file,
        partition_seed=i.partition_seed,
        model=i.models[index % len(i.models)],
        training=SupervisedSettings(
            i.epochs, i.batch, i.learning_rate, views=Views(i.shift, i.mirrors)
        ),
        labels=i.labels,
        private=_private(experiment),
        voters=experiment.privacy.voters if experiment.privacy.way == "pate" else 0,
    )


def _private(experiment: Experiment) -> DpSgdSettings | None:
    p = experiment.privacy
    if p.epsilon is None or MODES[p.way].charged:
        return None
    return DpSgdSettings(
        p.epsilon,
        p.delta,
        p.clipping,
        p.epochs,
        p.sampling_rate,
        p.learning_rate,
        p.accountant,
    )


def policy(experiment: Experiment) -> Policy:
    """What every simulated institution releases.

    Raises:
        SettingsError: a signal that does not exist.
    """
    p, privacy = experiment.policy, experiment.privacy
    charged = MODES[privacy.way].charged
    budget = None
    if charged and privacy.epsilon is not None:
        budget = Budget(privacy.epsilon, privacy.delta)
    known = {signal.value: signal for signal in Signal}
    for name in p.signals:
        if name not in known:
            raise SettingsError(f"policy.signals names {name!r}; choose among {', '.join(known)}")
    return Policy(
        frozenset(known[name] for name in p.signals),
        p.pull_back,
        experiment.questions.budget if charged and p.samples is None else p.samples,
        p.largest_batch,
        p.class_counts,
        p.scores,
        recipes=p.recipes,
        labels=p.labels,
        top_k=p.top_k,
        rounding=p.rounding,
        mode=privacy.way,
        budget=budget,
        noise=None if privacy.noise is None else Fraction(str(privacy.noise)),
        clipping=Fraction(str(p.clipping)),
    )


def institution_name(index: int, count: int) -> str:
    """Of simulated institution ``index`` of ``count``; names sort as they count."""
    return f"institution-{index:0{len(str(count - 1))}d}"


def simulated(
    experiment: Experiment,
    index: int,
    folder: Path | None,
    watch: ProgressCallback | None = None,
    books: Path | None = None,
) -> Institution:
    """Institution ``index`` of an experiment, with its teacher trained or found in ``folder``.

    Args:
        experiment: resolved.
        index: from 0.
        folder: of its own, for its teacher.
        watch: is told of the teacher's training.
        books: folder in which every institution of a run has its ledger; None keeps it in memory.

    Raises:
        SettingsError: a policy, model or partition that does not exist.
        DataError: its data or its books cannot be opened.
    """
    vault = TrainedVault(holding(experiment, index), folder, watch)
    name = institution_name(index, experiment.institutions.count)
    ledger = None if books is None else Ledger(books / f"{index:04d}.sqlite", durable=False)
    return Institution(name, vault, policy(experiment), ledger)


def owned(
    owner: OwnerConfig, watch: ProgressCallback | None = None, ledger: Ledger | None = None
) -> Institution:
    """An owner's institution, with its teacher trained or found in the folder of its state.

    Args:
        owner: what he has and allows.
        watch: is told of the teacher's training.
        ledger: his books; None opens those in the folder of his state.

    Raises:
        SettingsError: a model or partition that does not exist, or others can read the folder.
        DataError: its data or its teacher cannot be opened.
    """
    prepared(owner.state.folder)
    books = Ledger(owner.state.ledger) if ledger is None else ledger
    return Institution(owner.name, _vault(owner, watch), owner.word, books)


def examined(owner: OwnerConfig, student: nn.Module) -> tuple[int, int]:
    """How well a student does on an owner's private test images: (right, of how many).

    For the owner's own eyes: no policy is asked.

    Raises:
        DataError: there are no test images, or none that a student of this shape can read.
    """
    vault = _vault(owner, None)
    right, examples = vault.score(student)
    if not examples:
        raise DataError("there are no private test images to examine a student on; bring some")
    return right, examples


def _vault(owner: OwnerConfig, watch: ProgressCallback | None) -> Vault:
    """What an owner has: as his [teacher] says."""
    data = None if owner.data is None else _held(owner.data, owner.teacher)
    if isinstance(owner.teacher, TeacherSpec):
        return ExternalVault(owner.teacher, data)
    if data is None:
        raise SettingsError("a teacher that is trained here needs images; write a [data] table")
    return TrainedVault(data, owner.state.folder / "teacher", watch)


def _held(d: DataTable, t: TeacherTable | TeacherSpec) -> Assets:
    """Images, and the model that is to be trained on them, if one is."""
    images = Assets(
        data=d.source,
        root=str(d.root),
        index=d.index,
        count=d.count,
        partition=d.partition,
        alpha=d.alpha,
        shards=d.shards,
        partition_file=None if d.partition_file is None else str(d.partition_file),
        partition_seed=d.partition_seed,
    )
    if isinstance(t, TeacherSpec):
        return images
    return replace(
        images,
        model=t.model,
        names=t.class_names,
        seed=t.seed,
        training=SupervisedSettings(t.epochs, t.batch, t.learning_rate, t.weight_decay),
        private=None if t.private is None else DpSgdSettings(**dict(t.private)),
        voters=t.voters,
    )
