"""Build a simulated institution from an experiment's settings: its assets, policy and vault."""

from fractions import Fraction
from pathlib import Path

from fedkd.client.institution.institution import Institution
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.training.settings import (
    DpSgdSettings,
    ProgressCallback,
    SupervisedSettings,
)
from fedkd.client.vault.vault_settings import Assets
from fedkd.core.augmentation import Augmentation
from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.privacy import MODES, Budget, Policy
from fedkd.protocol import Signal


def simulated_institution(
    experiment: Experiment,
    index: int,
    folder: Path | None,
    progress: ProgressCallback | None = None,
    ledgers: Path | None = None,
) -> Institution:
    """Institution ``index`` of an experiment, with its teacher trained, or cached in ``folder``.

    Args:
        experiment: resolved.
        index: from 0.
        folder: the institution's own, for its teacher.
        progress: told of the teacher's training.
        ledgers: folder of the ledgers of all institutions of a run; None keeps them in memory.

    Raises:
        SettingsError: a policy, model or partition that does not exist.
        DataError: its data or its ledger cannot be opened.
    """
    vault = TrainedVault(simulated_assets(experiment, index), folder, progress)
    name = institution_name(index, experiment.institutions.count)
    ledger = None if ledgers is None else Ledger(ledgers / f"{index:04d}.sqlite", durable=False)
    return Institution(name, vault, simulated_policy(experiment), ledger)


def institution_name(index: int, count: int) -> str:
    """Name of simulated institution ``index`` of ``count``; names sort by index."""
    return f"institution-{index:0{len(str(count - 1))}d}"


def simulated_assets(experiment: Experiment, index: int) -> Assets:
    """The data share and model of simulated institution ``index``."""
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
        partition_column=i.partition_column,
        partition_seed=i.partition_seed,
        model=i.models[index % len(i.models)],
        training=SupervisedSettings(
            i.epochs, i.batch, i.learning_rate, augmentation=Augmentation(i.shift, i.mirrors)
        ),
        labels=i.labels,
        tasks=i.tasks,
        tasks_as_classes=i.tasks_as_classes,
        embedding=i.embedding,
        gallery=i.gallery,
        dp_training=_dp_training(experiment),
        voters=experiment.privacy.voters if experiment.privacy.effective_mode == "pate" else 0,
    )


def _dp_training(experiment: Experiment) -> DpSgdSettings | None:
    p = experiment.privacy
    if p.epsilon is None or MODES[p.effective_mode].charged:
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


def simulated_policy(experiment: Experiment) -> Policy:
    """The release policy of every simulated institution.

    Raises:
        SettingsError: a signal that does not exist.
    """
    p, privacy = experiment.policy, experiment.privacy
    charged = MODES[privacy.effective_mode].charged
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
        batch_statistics=p.batch_statistics,
        recipes=p.recipes,
        labels=p.labels,
        top_k=p.top_k,
        rounding=p.rounding,
        mode=privacy.effective_mode,
        budget=budget,
        noise=None if privacy.noise is None else Fraction(str(privacy.noise)),
        clipping=Fraction(str(p.clipping)),
    )
