"""Check of an experiment's settings against a simulated card, before any teacher is trained."""

from fedkd.client.institution import simulated_assets, simulated_policy
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.experiment import Experiment
from fedkd.protocol import Card
from fedkd.server.coordinator import ingredients


def check_settings(experiment: Experiment) -> None:
    """Build what the coordinator brings, for the card that the first institution would have.

    Raises:
        SettingsError: the experiment names something that does not exist.
        NeedsError: the method asks for what the policy refuses.
        DataError: the data cannot be read.
    """
    models = experiment.institutions.models[: experiment.institutions.count]
    vaults = [TrainedVault(simulated_assets(experiment, index)) for index in range(len(models))]
    for each in vaults:
        each.check_model()
    vault, policy = vaults[0], simulated_policy(experiment)
    card = Card(
        "the institution",
        vault.classes,
        vault.shape,
        policy.signals,
        policy.pull_back,
        columns=vault.columns,
        numbers=vault.numbers,
    )
    ingredients(experiment, [card]).method.check([card])
