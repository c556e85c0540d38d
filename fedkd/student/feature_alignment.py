"""Feature alignment: a student whose features become the teacher's, under the teacher's classifier.

Source: HiDFD (Tang et al., AAAI 2025), which has it of SimKD (Chen et al., CVPR 2022). One
institution alone can release features that mean the same at every answer.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.core.augmentation import NO_AUGMENTATION
from fedkd.core.checkpoint_state import State, gather, scatter
from fedkd.core.interfaces import BaseStudentPart, Context
from fedkd.core.seen_samples import sample_keys
from fedkd.errors import SettingsError
from fedkd.models import Network


@dataclass(frozen=True, eq=False)
class FeatureAlignment:
    """The settings; sources tell it what was answered, see `fedkd.synthesis.RememberedFeatures`."""

    def build(self, context: Context) -> "AlignedStudent":
        """The part.

        Raises:
            SettingsError: the student has no last layer of its own, or images are augmented.
        """
        if not isinstance(context.student, Network):
            raise SettingsError(
                f"a {type(context.student).__name__} has no last layer under which its features "
                "could be aligned; choose a student of fedkd.models.MODELS"
            )
        if context.plan.augmentation != NO_AUGMENTATION:
            raise SettingsError(
                "features of shifted or mirrored images are not known; leave student.shift and "
                "student.mirrors out"
            )
        return AlignedStudent(context.student, context)


class AlignedStudent(BaseStudentPart):
    """A linear projector from the student's features to the teacher's, and the latter, remembered.

    ``|P S_f(x) + p - T_f(x)|^2 / D`` is the student's loss of a sample. Its last layer is no
    parameter: after each step it is ``W P``, the teacher's classifier on projected features. W is
    found by least squares, since the teacher's scores are linear in its features.

    Args:
        student: its features are aligned, and its last layer is set.
        context: rate of the plan, device, seed.
    """

    def __init__(self, student: Network, context: Context) -> None:
        self.student, self._context = student, context
        self._keys = np.empty(0, np.uint64)
        self._features, self._logits = torch.empty(0, 0), torch.empty(0, context.classes)
        self._order = np.empty(0, np.int64)
        self._classifier = torch.empty(0, 0)
        self._projector: nn.Linear | None = None
        self._optimizer: torch.optim.Adam | None = None

    @property
    def classifier(self) -> Tensor:
        """(D + 1, K): the teacher's last layer, its bias in the last row."""
        return self._classifier

    def remember(self, images: Tensor, features: Tensor, logits: Tensor) -> None:
        """What was answered to images (B, C, H, W) uint8: (B, D) and (B, K)."""
        self._keys = np.concatenate([self._keys, sample_keys(images.numpy())])
        own = features.detach().float().cpu()
        self._features = torch.cat([self._features.reshape(-1, own.shape[1]), own])
        self._logits = torch.cat([self._logits, logits.detach().float().cpu()])
        self._order = np.argsort(self._keys, kind="stable")

    def prepare(self, rng: torch.Generator) -> None:
        """Find the classifier anew where there are answers."""
        if not len(self._features):
            return
        ones = torch.ones(len(self._features), 1, dtype=torch.float64)
        known = torch.cat([self._features.double(), ones], 1)  # (N, D + 1)
        # gelsd: features that are always zero leave the system without full rank.
        found = torch.linalg.lstsq(known, self._logits.double(), driver="gelsd").solution
        self._classifier = found.float().contiguous()

    def term(self, images: Tensor, logits: Tensor, progress: float) -> Tensor | None:
        """The loss of each sample whose features are known, (B,); 0 of the others."""
        known, wanted = self._known(images.cpu())
        if not bool(known.any()):
            return None
        device = logits.device
        projector, _ = self._parts_for(wanted.shape[1])
        with self._context.compute.autocast():
            features = self.student.embed(self._context.compute.pixels(images))
        projected: Tensor = projector(features.float())
        return (projected - wanted.to(device)).square().mean(1) * known.to(device)

    def follow(self, images: Tensor, target: Tensor, taken: int, progress: float) -> None:
        """A step of the projector; then the last layer is the teacher's classifier on it."""
        if self._projector is None or self._optimizer is None:
            return
        for group in self._optimizer.param_groups:
            group["lr"] = self._context.plan.rate(taken)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._fold()

    def state(self) -> State:
        """Projector, momenta, classifier, and all that is remembered."""
        own = {
            "keys": torch.from_numpy(self._keys.view(np.int64).copy()),
            "features": self._features.clone(),
            "logits": self._logits.clone(),
            "classifier": self._classifier.clone(),
        }
        parts: dict[str, nn.Module | torch.optim.Optimizer] = {}
        if self._projector is not None and self._optimizer is not None:
            parts = {"projector": self._projector, "optimizer": self._optimizer}
        state = gather(parts, {"built": bool(parts)})
        return State({**state.tensors, **own}, state.numbers)

    def restore(self, state: State) -> None:
        """Be again as when ``state`` was taken."""
        self._keys = state.tensors["keys"].numpy().view(np.uint64).copy()
        self._order = np.argsort(self._keys, kind="stable")
        self._features = state.tensors["features"].clone()
        self._logits = state.tensors["logits"].clone()
        self._classifier = state.tensors["classifier"].clone()
        if state.numbers[""]["built"]:
            projector, optimizer = self._parts_for(self._features.shape[1])
            scatter(state, {"projector": projector, "optimizer": optimizer})

    def _known(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Which of images (B, C, H, W) are remembered, (B,) bool, and features (B, D), else 0."""
        if not len(self._keys):
            return torch.zeros(len(images), dtype=torch.bool), torch.zeros(len(images), 0)
        keys, in_order = sample_keys(images.numpy()), self._keys[self._order]
        at = np.minimum(np.searchsorted(in_order, keys), len(in_order) - 1)
        known = torch.from_numpy(in_order[at] == keys)
        return known, self._features[torch.from_numpy(self._order[at])] * known[:, None]

    @torch.no_grad()
    def _fold(self) -> None:
        """Set the student's last layer to the classifier on projected features."""
        if self._projector is None or not len(self._classifier):
            return
        device = self.student.head.weight.device
        weight, bias = self._classifier[:-1].to(device), self._classifier[-1].to(device)
        self.student.head.weight.copy_((self._projector.weight.T @ weight).T)
        self.student.head.bias.copy_(self._projector.bias @ weight + bias)

    def _parts_for(self, size: int) -> tuple[nn.Linear, torch.optim.Adam]:
        """Projector and optimiser; made when the first answer tells how wide features are."""
        if self._projector is None or self._optimizer is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._context.seed)
                projector = nn.Linear(self.student.head.in_features, size)
            self._projector = projector.to(self._context.compute.device)
            self._optimizer = torch.optim.Adam(projector.parameters(), self._context.plan.rate(0))
        return self._projector, self._optimizer
