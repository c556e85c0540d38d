"""An institution in one piece: vault, policy, books and door. Knows no network, no coordinator.

What is told to the world is its card; what is answered goes through its door.
"""

import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from client.ledger import Ledger
from client.owner import Owner
from client.release import Door
from client.state import prepared
from client.teach import TeachSettings, Watch
from client.vault import Holding, Vault
from fedkd.errors import DataError, SettingsError
from fedkd.experiment import Experiment
from fedkd.privacy.policy import Policy
from fedkd.signals import Ask, Card, PullBack, Refusal, Reply, Signal
from fedkd.teacher import Teacher


class Institution:
    """Holds a vault behind a door.

    Args:
        name: under which it is known.
        vault: private.
        policy: the owner's word.
        ledger: his books, which may be shared with other agents of his and are his to close; None
            keeps them in memory.

    Raises:
        DataError: the vault cannot be opened.
    """

    def __init__(
        self, name: str, vault: Vault, policy: Policy, ledger: Ledger | None = None
    ) -> None:
        self._vault, self._policy = vault, policy
        self._ledger = Ledger(None) if ledger is None else ledger
        teacher = vault.teacher
        self.card = Card(
            name,
            vault.classes,
            policy.shape or vault.shape,
            policy.signals & teacher.signals,
            policy.pull_back and teacher.differentiable,
            policy.samples,
            policy.largest_batch,
            vault.class_counts if policy.class_counts else None,
            policy.scores,
        )
        mark = _mark(teacher, self.card.shape)
        self._door = Door(policy, teacher, self.card, self._ledger, mark)

    def answer(self, request: Ask | PullBack, server: str = "") -> Reply | Refusal:
        """What the door lets out to ``server``, host:port; never raises."""
        return self._door.answer(request, server)

    def score(self, model: nn.Module) -> tuple[int, int] | None:
        """A student's (right, of how many) on private test images; None if that is not told."""
        return self._vault.score(model) if self._policy.scores else None

    @property
    def tally(self) -> Mapping[str, int]:
        """Samples ``asked``, ``pulled_back`` and questions ``refused``, as the books have them.

        Raises:
            DataError: the books cannot be read.
        """
        return vars(self._ledger.spent)


def _mark(teacher: Teacher, shape: tuple[int, int, int]) -> bytes:
    """What tells this teacher from one that is trained anew, by what it says of one ramp."""
    ramp = torch.linspace(0, 1, shape[0] * shape[1] * shape[2]).view(1, *shape)
    try:
        said = teacher.ask(ramp, frozenset({Signal.LOGITS}))[Signal.LOGITS]
        return hashlib.blake2b(said.numpy().tobytes(), digest_size=16).digest()
    except Exception:  # then nothing that was answered before counts as a repeat
        return secrets.token_bytes(16)


def holding(experiment: Experiment, index: int) -> Holding:
    """What simulated institution ``index`` has."""
    i = experiment.institutions
    return Holding(
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
        teach=TeachSettings(i.epochs, i.batch, i.learning_rate),
    )


def policy(experiment: Experiment) -> Policy:
    """What every simulated institution releases.

    Raises:
        SettingsError: a signal that does not exist.
    """
    p = experiment.policy
    known = {signal.value: signal for signal in Signal}
    for name in p.signals:
        if name not in known:
            raise SettingsError(f"policy.signals names {name!r}; choose among {', '.join(known)}")
    return Policy(
        frozenset(known[name] for name in p.signals),
        p.pull_back,
        p.samples,
        p.largest_batch,
        p.class_counts,
        p.scores,
    )


def name_of(index: int, count: int) -> str:
    """Of simulated institution ``index`` of ``count``; names sort as they count."""
    return f"institution-{index:0{len(str(count - 1))}d}"


def simulated(
    experiment: Experiment, index: int, folder: Path | None, watch: Watch | None = None
) -> Institution:
    """Institution ``index`` of an experiment, with its teacher trained or found in ``folder``.

    Raises:
        SettingsError: a policy, model or partition that does not exist.
        DataError: its data cannot be opened.
    """
    vault = Vault.open(holding(experiment, index), folder, watch)
    return Institution(name_of(index, experiment.institutions.count), vault, policy(experiment))


def owned(owner: Owner, watch: Watch | None = None) -> Institution:
    """An owner's institution, with its teacher trained or found in the folder of its state.

    Raises:
        SettingsError: a model or partition that does not exist, or others can read the folder.
        DataError: its data or its teacher cannot be opened.
    """
    prepared(owner.state.folder)
    ledger = Ledger(owner.state.ledger)
    return Institution(owner.name, _vault(owner, watch), owner.policy.word, ledger)


def examined(owner: Owner, student: nn.Module) -> tuple[int, int]:
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


def _vault(owner: Owner, watch: Watch | None) -> Vault:
    """What an owner has: as his [teacher] says."""
    return Vault.open(_trained(owner), owner.state.folder / "teacher", watch)


def _trained(owner: Owner) -> Holding:
    """Images, and a model to be trained on them."""
    t, d = owner.teacher, owner.data
    if d is None:
        raise SettingsError("a teacher that is trained here needs images; write a [data] table")
    return Holding(
        data=d.source,
        root=str(d.root),
        index=d.index,
        count=d.count,
        partition=d.partition,
        alpha=d.alpha,
        shards=d.shards,
        partition_file=None if d.partition_file is None else str(d.partition_file),
        partition_seed=d.partition_seed,
        model=t.model,
        seed=t.seed,
        teach=TeachSettings(t.epochs, t.batch, t.learning_rate, t.weight_decay),
    )
