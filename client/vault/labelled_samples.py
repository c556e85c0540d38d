"""Labelled samples of another source, in the classes of a teacher: for an audit by its owner."""

import torch

from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.vault import LabelledSamples, Vault
from fedkd.client.vault.vault_settings import Assets
from fedkd.errors import DataError


def labelled_samples(vault: Vault, assets: Assets) -> LabelledSamples:
    """All samples of a source, training and test split alike, as a vault's teacher reads them.

    Args:
        vault: of the teacher.
        assets: of which the data alone matter.

    Raises:
        DataError: there are no such data, or the teacher reads others.
    """
    opened = TrainedVault(assets)
    parts = [
        in_teacher_classes(vault, opened, part)
        for part in (opened.training_samples, opened.test_samples)
    ]
    return LabelledSamples(
        torch.cat([part.samples for part in parts]), torch.cat([part.labels for part in parts])
    )


def in_teacher_classes(
    vault: Vault, opened: TrainedVault, samples: LabelledSamples
) -> LabelledSamples:
    """Samples with their labels in the order of a teacher's classes.

    Classes are found by name, or by place where names differ or there are none.

    Raises:
        DataError: the teacher reads other samples, or predicts something else.
    """
    if (opened.shape, opened.columns) != (vault.shape, vault.columns) or (
        opened.numbers != vault.numbers or opened.classes > vault.classes
    ):
        raise DataError(
            f"the samples are {opened.classes} classes of {list(opened.shape)} and the teacher "
            f"reads {vault.classes} of {list(vault.shape)}, or the schemas differ; name samples "
            "that fit it"
        )
    known, own = opened.class_names or (), vault.class_names or ()
    if opened.numbers or not known or not set(known) <= set(own):
        return samples
    place = torch.tensor([own.index(name) for name in known])
    return LabelledSamples(samples.samples, place[samples.labels])
