"""Shrink an owner's teacher, and compare the narrower network with it on the private test data."""

from dataclasses import dataclass

from torch import nn

from fedkd.client.config.owner_config import OwnerConfig
from fedkd.client.config.private_state_folder import ensure_private_folder
from fedkd.client.institution.from_config import owner_vault
from fedkd.client.institution.institution import Institution
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.vault.shrunk_vault import ShrunkVault
from fedkd.client.vault.training.settings import ProgressCallback
from fedkd.errors import SettingsError
from fedkd.models import ModuleTeacher


@dataclass(frozen=True)
class TestedNetwork:
    """How well a network does on private test data; for the owner alone."""

    weights: int
    """Numbers that training sets."""
    right: int
    examples: int
    """0 without test data."""


@dataclass(frozen=True)
class ShrinkResult:
    """A teacher and its narrower form, and the control where it was asked for."""

    name: str
    """Of the institution."""
    teacher: TestedNetwork
    shrunk: TestedNetwork
    distilled: TestedNetwork | None = None
    """The same narrow network by plain distillation on the same images."""
    distilled_mixed: TestedNetwork | None = None
    """Likewise, on images that are augmented as grafting has them."""


def shrink_teacher(
    config: OwnerConfig, progress: ProgressCallback | None = None, *, compare: bool = False
) -> ShrinkResult:
    """Train the teacher and its narrower form, or find them cached; charge private trainings.

    From then on the narrower form answers, under the same policy and ledger.

    Args:
        config: the owner's, with a table [teacher.shrunk].
        progress: told of the teacher's epochs, then of the stages of grafting.
        compare: whether to train the control too. It is neither cached nor released.

    Raises:
        SettingsError: no such table, a model without a narrower form, or no budget for a private
            training.
        DataError: the data or the ledger cannot be opened.
    """
    vault = owner_vault(config, progress)
    if not isinstance(vault, ShrunkVault):
        raise SettingsError(
            "the owner's file has no [teacher.shrunk], or brings a teacher that was trained "
            "elsewhere; train one here, and say [teacher.shrunk] width = 0.5 images = 5"
        )
    vault.check_model()
    ensure_private_folder(config.state.folder)
    # Its constructor charges before anything is trained.
    ledger = Ledger.anchored(config.state.ledger)
    Institution(config.name, vault, config.effective_policy, ledger)
    controls = [_tested(vault, vault.distilled(mixed=mixed)) for mixed in (False, True) if compare]
    original, shrunk = vault.original.teacher, vault.teacher
    assert isinstance(original, ModuleTeacher)
    assert isinstance(shrunk, ModuleTeacher)
    return ShrinkResult(
        config.name, _tested(vault, original.module), _tested(vault, shrunk.module), *controls
    )


def _tested(vault: ShrunkVault, network: nn.Module) -> TestedNetwork:
    right, examples = vault.score(network)
    return TestedNetwork(sum(p.numel() for p in network.parameters()), right, examples)
