"""An institution in one piece: vault, policy and door. Knows no network and no coordinator.

What is told to the world is its card; what is answered goes through its door.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from client.release import Door
from client.teach import TeachSettings, Watch
from client.vault import Holding, Vault
from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.privacy.policy import Policy
from fedkd.signals import Ask, Card, PullBack, Refusal, Reply, Signal


class Institution:
    """Holds a vault behind a door.

    Args:
        name: under which it is known.
        vault: private.
        policy: the owner's word.

    Raises:
        SettingsError: the policy promises what the vault does not have.
        DataError: the teacher or its data cannot be opened.
    """

    def __init__(self, name: str, vault: Vault, policy: Policy) -> None:
        _keeps_its_word(vault, policy)
        self._vault, self._policy = vault, policy
        teacher = vault.teacher
        self.card = Card(
            name,
            vault.classes,
            vault.shape,
            policy.signals & teacher.signals,
            policy.pull_back and teacher.differentiable,
            policy.samples,
            policy.largest_batch,
            vault.class_counts if policy.class_counts else None,
            policy.scores,
        )
        self._door = Door(policy, teacher, self.card)

    def answer(self, request: Ask | PullBack) -> Reply | Refusal:
        """What the door lets out; never raises."""
        return self._door.answer(request)

    def score(self, model: nn.Module) -> tuple[int, int] | None:
        """A student's (right, of how many) on private test images; None if that is not told."""
        return self._vault.score(model) if self._policy.scores else None

    @property
    def tally(self) -> Mapping[str, int]:
        """Samples ``asked``, ``pulled_back`` and questions ``refused`` so far."""
        return vars(self._door.tally)


def _keeps_its_word(vault: Vault, policy: Policy) -> None:
    if policy.class_counts and vault.class_counts is None:
        raise SettingsError(
            "policy.class_counts is on and a brought teacher's are not known; turn it off"
        )
    if policy.scores and not vault.scores:
        raise SettingsError(
            "policy.scores is on and there are no test data; name them under [data], or turn it off"
        )


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
