"""Access to a teacher that is a narrower form of another one, grafted on the same private data.

The narrower network is a model of its own: it has another fingerprint in the ledger, and where the
release mode promises privacy by training, its training is charged beside that of the original.
"""

from dataclasses import asdict
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn

from fedkd.client.ledger.dataset_privacy_spending import DpTraining
from fedkd.client.vault.compression.few_shot_grafting import (
    distil,
    few_images,
    graft_with_few_images,
)
from fedkd.client.vault.compression.network_blocks import split_into_blocks
from fedkd.client.vault.compression.settings import ShrinkSettings
from fedkd.client.vault.disk_model_cache import CachedModel, load_cached_model
from fedkd.client.vault.trained_vault import TrainedTeacher, TrainedVault
from fedkd.client.vault.training.settings import DpSgdSettings, ProgressCallback
from fedkd.client.vault.vault_settings import Assets
from fedkd.errors import DataError, SettingsError
from fedkd.models import ModuleTeacher, Network, build_network, narrow_network

SHRUNK = "shrunk"
"""Folder of the narrower network, within that of the original."""


class ShrunkVault(TrainedVault):
    """The vault of a teacher that is narrower than the one of its assets. Nothing is read yet.

    Args:
        assets: the owner's data, and the original model; without voters.
        shrink: how much narrower, and how it is trained: privately exactly where the original is.
        folder: where the original is cached, and within it the narrower one.
        progress: told of the original's epochs, then of the stages of grafting.
    """

    def __init__(
        self,
        assets: Assets,
        shrink: ShrinkSettings,
        folder: Path | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        super().__init__(assets, None if folder is None else folder / SHRUNK, progress)
        self._shrink, self._original_folder = shrink, folder

    @cached_property
    def original(self) -> TrainedVault:
        """The vault of the original, on the same opened data."""
        vault = TrainedVault(self.assets, self._original_folder, self._progress)
        vault._data = self._data
        return vault

    @property
    def earlier_dp_trainings(self) -> tuple[DpTraining, ...]:
        """See `Vault.earlier_dp_trainings`: that of the original."""
        training = self.original.dp_training
        return () if training is None else (training,)

    def check_model(self) -> None:
        """Check that the model can be trained, and that it can be shrunk.

        Raises:
            SettingsError: it cannot be trained, or has no narrower form.
            DataError: the data cannot be opened.
        """
        if self.columns:
            raise SettingsError(
                f"model {self.assets.model!r} reads rows of a table and has no narrower form; take "
                "[teacher.shrunk] away"
            )
        self._narrow()
        super().check_model()

    def distilled(self, *, mixed: bool) -> nn.Module:
        """The control: the same narrow network by plain distillation on the same images.

        Args:
            mixed: whether images are also mixed, as grafting has them, or shifted alone.

        Raises:
            SettingsError: a private training, which takes no handful of images.
        """
        if self._shrink.dp_training is not None:
            raise SettingsError(
                "a private training takes all images by chance, so plain distillation has no "
                "handful to share with it; leave the comparison out"
            )
        student = self._narrow()
        distil(self._wide(), student, self._few_images(), self._shrink, self._seed, mixed=mixed)
        return student

    @property
    def _dp_target(self) -> DpSgdSettings | None:
        return self._shrink.dp_training

    @property
    def _seed(self) -> int:
        return self.assets.seed * self.assets.count + self.assets.index

    @cached_property
    def _metadata(self) -> dict[str, object]:
        shrink = asdict(self._shrink)
        return {**self.original._metadata, SHRUNK: shrink}

    @cached_property
    def _cached(self) -> CachedModel | None:
        """The cached narrower network, if there is one and the original is there too."""
        if self._folder is None or self.original._cached is None:
            return None
        return load_cached_model(self._folder, self._metadata, self._narrow())

    def _train(self) -> TrainedTeacher:
        self.check_model()
        shrink, wide, narrow = self._shrink, self._wide(), self._narrow()
        if shrink.dp_training is None:
            network = graft_with_few_images(
                wide, narrow, self.shape, self._few_images(), shrink, self._seed, self._progress
            )
            return ModuleTeacher(network, self.classes), None
        # Opacus is slow to import, and most teachers are trained without it.
        from fedkd.client.vault.compression.private_grafting import graft_with_dp_sgd

        network, guarantee = graft_with_dp_sgd(
            wide,
            narrow,
            self.shape,
            self._data.images,
            shrink.dp_training,
            self._seed,
            len(split_into_blocks(narrow)),
            self._progress,
        )
        return ModuleTeacher(network, self.classes), guarantee

    def _narrow(self) -> Network:
        """The narrower network with fresh weights."""
        own = self.assets
        return narrow_network(own.model, self.classes, self.shape, self._shrink.width, self._seed)

    def _wide(self) -> Network:
        """A copy of the original network, without the hooks that a private training left in it."""
        teacher = self.original.teacher
        if not isinstance(teacher, ModuleTeacher) or not isinstance(teacher.module, Network):
            raise SettingsError(f"model {self.assets.model!r} has no blocks to be shrunk")
        own = self.assets
        network = build_network(own.model, self.classes, self.shape, own.seed)
        assert isinstance(network, Network)
        network.load_state_dict(teacher.module.state_dict())
        return network.eval()

    def _few_images(self) -> Tensor:
        places = few_images(self._data.labels, self._shrink.images, self._seed)
        if len(places) < 2:
            raise DataError("grafting needs 2 or more images; raise teacher.shrunk.images")
        return self._data.images[places]
