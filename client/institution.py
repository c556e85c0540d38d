"""An institution in one piece: vault, policy and door. Knows no network and no coordinator.

What is told to the world is its card; what is answered goes through its door.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from client.release import Door
from client.teach import PrivateSettings, TeachSettings, Watch
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
    """

    def __init__(self, name: str, vault: Vault, policy: Policy) -> None:
        self._vault, self._policy = vault, policy
        if policy.class_counts and vault.guarantee is not None:
            raise SettingsError(
                "class counts are told of private images, and no noise covers them; set "
                "policy.class_counts to false, or do without differential privacy"
            )
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
            guarantee=vault.guarantee,
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
        private=_private(experiment),
    )


def _private(experiment: Experiment) -> PrivateSettings | None:
    p = experiment.privacy
    if p.epsilon is None:
        return None
    return PrivateSettings(
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
