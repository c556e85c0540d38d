"""Teacher models: logits, batch-norm distances, and their vector-Jacobian products.

Nothing here decides what may leave an institution; see `fedkd.client.release`.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from fedkd.errors import NeedsError
from fedkd.models.architectures import Network
from fedkd.protocol import WHOLE_BATCH, Signal, as_float, cosine_relations

CHUNK = 1024
"""Images in one forward pass; a batch that asks for a signal of the whole batch is one piece."""
GRADIENT_CHUNK = 128
"""Likewise where a gradient is computed, for which all activations are kept."""

MIN_PROBABILITY = 1e-7
"""Smaller probabilities are raised to it, so that their logarithm is finite."""


Classes: TypeAlias = int | Sequence[str] | Mapping[str, Sequence[str]] | None
"""K, or the names of a teacher's outputs in their order; None: as its object says."""


class Teacher(Protocol):
    """A trained model that computes signals of images, and gradients of them where it can."""

    @property
    def classes(self) -> int:
        """K."""

    @property
    def signals(self) -> frozenset[Signal]:
        """Signals that it can compute."""

    @property
    def differentiable(self) -> bool:
        """Whether it can compute vector-Jacobian products."""

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """The signals of a batch.

        Args:
            images: (B, C, H, W), B >= 1, uint8 or float in [0, 1].
            signals: a subset of ``self.signals``.

        Returns:
            float32, shaped as `Signal` says, detached from any graph.

        Raises:
            NeedsError: a signal that it cannot compute.
        """

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """Gradient of the sum over signals of <cotangent, signal>.

        Args:
            images: (B, C, H, W), uint8 or float in [0, 1].
            cotangents: d loss / d signal, each shaped like its signal.

        Returns:
            (B, C, H, W) float32, with respect to images in [0, 1].

        Raises:
            NeedsError: a signal that it cannot compute, or it has no gradient at all.
        """


class ModuleTeacher:
    """A frozen copy of a network as a teacher.

    It computes LOGITS; BN_GAP where it has batch norm; FEATURES and RELATIONS where it is a
    `Network`. It is safe to use from several threads.

    Args:
        module: (B, C, H, W) float in [0, 1] -> (B, K), on any device.
        classes: K.
    """

    differentiable = True

    def __init__(self, module: nn.Module, classes: int) -> None:
        self.classes = classes
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        # Convolutions over few channels are up to half faster in this order.
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # A forward pass of one thread must not run the hooks of another's.
        self._lock = threading.Lock()
        self._norms = [m for m in self.module.modules() if isinstance(m, nn.BatchNorm2d)]
        first = next(self.module.parameters(), None)
        self._device = torch.device("cpu") if first is None else first.device

    @property
    def signals(self) -> frozenset[Signal]:
        """Signals that it can compute."""
        signals = {Signal.LOGITS}
        if any(norm.track_running_stats for norm in self._norms):
            signals.add(Signal.BN_GAP)
        if isinstance(self.module, Network):
            signals |= {Signal.FEATURES, Signal.RELATIONS, Signal.ACTIVATION}
        return frozenset(signals)

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `Teacher.ask`."""
        require_signals(signals, self.signals)
        with torch.no_grad():
            pieces = [self._forward(piece, signals) for piece in self._pieces(images, signals)]
        if WHOLE_BATCH & signals:
            return {signal: value.cpu() for signal, value in pieces[0].items()}
        return {s: torch.cat([piece[s] for piece in pieces]).cpu() for s in signals}

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """See `Teacher.pull_back`."""
        asked = frozenset(cotangents)
        require_signals(asked, self.signals)
        gradients = []
        start = 0
        for piece in self._pieces(images, asked, GRADIENT_CHUNK):
            stop = start + len(piece)
            # A signal of the whole batch stays whole, the others are cut as the batch is.
            own = {
                signal: cotangent if signal in WHOLE_BATCH else cotangent[start:stop]
                for signal, cotangent in cotangents.items()
            }
            gradients.append(self._vector_jacobian_product(piece, own))
            start = stop
        return torch.cat(gradients).contiguous()

    def signals_with_graph(
        self, images: Tensor, signals: frozenset[Signal]
    ) -> dict[Signal, Tensor]:
        """The signals of ``images`` (B, C, H, W) on its device, with their graph to the images.

        For whoever has the teacher in his own process: one pass forward and one back are enough
        for what takes `ask` and `pull_back` three passes.

        Raises:
            NeedsError: a signal that it cannot compute.
        """
        require_signals(signals, self.signals)
        return self._forward(images, signals)

    def _pieces(
        self, images: Tensor, signals: frozenset[Signal], size: int = CHUNK
    ) -> Iterator[Tensor]:
        for piece in torch.split(images, len(images) if WHOLE_BATCH & signals else size):
            unit = as_float(piece.to(self._device))
            yield unit.contiguous(memory_format=torch.channels_last)

    def _vector_jacobian_product(
        self, piece: Tensor, cotangents: Mapping[Signal, Tensor]
    ) -> Tensor:
        with torch.enable_grad():
            leaf = piece.detach().requires_grad_()
            values = self._forward(leaf, frozenset(cotangents))
            products = [(c.to(values[s]) * values[s]).sum() for s, c in cotangents.items()]
            (gradient,) = torch.autograd.grad(torch.stack(products).sum(), leaf)
        return gradient.float().cpu()

    def _forward(self, x: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """All signals from one forward pass."""
        values = {}
        norms = self._norms if Signal.BN_GAP in signals else []
        with self._lock, _batch_norm_gaps(norms) as gaps:
            if isinstance(self.module, Network):
                features = self.module.embed(x)
                logits = self.module.head(features)
                values[Signal.FEATURES] = features
                if Signal.RELATIONS in signals:
                    values[Signal.RELATIONS] = cosine_relations(features)
                if Signal.ACTIVATION in signals:
                    values[Signal.ACTIVATION] = features.abs().mean()
            else:
                logits = self.module(x)
        values[Signal.LOGITS] = logits
        if gaps:
            values[Signal.BN_GAP] = torch.stack(gaps).sum()
        return {signal: values[signal] for signal in signals}


class ScikitTeacher:
    """A fitted scikit-learn classifier as a teacher: LOGITS only, no gradient.

    Its logits are the logarithms of its probabilities; a class that it never saw has the lowest.

    Args:
        model: fitted on (N, C H W) floats in [0, 1]; has ``predict_proba`` and ``classes_``.
        classes: K.
    """

    differentiable = False
    signals = frozenset({Signal.LOGITS})

    # scikit-learn ships no types.
    def __init__(self, model: Any, classes: int) -> None:
        self.classes = classes
        self._model = model

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        """See `Teacher.ask`."""
        require_signals(signals, self.signals)
        probabilities = np.zeros((len(images), self.classes))
        for start in range(0, len(images), CHUNK):
            flat = as_float(images[start : start + CHUNK]).flatten(1).numpy()
            columns = self._model.classes_
            probabilities[start : start + CHUNK, columns] = self._model.predict_proba(flat)
        logits = np.log(np.maximum(probabilities, MIN_PROBABILITY))
        return {signal: torch.tensor(logits, dtype=torch.float32) for signal in signals}

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        """Always raises.

        Raises:
            NeedsError: it has no gradient.
        """
        raise NeedsError("this teacher has no gradient; choose a method that pulls nothing back")


@contextmanager
def _batch_norm_gaps(norms: list[nn.BatchNorm2d]) -> Iterator[list[Tensor]]:
    """Collects the gap at each batch-norm layer during forward passes; its hooks are then removed.

    For a layer with input h and running statistics (mu, v), the gap is
    ``||v - var(h)||_2 + ||mu - mean(h)||_2`` over channels, moments over N, H, W, variance
    biased. Source: DeepInversion (Yin et al., CVPR 2020), as in CuDFKD (arXiv 2208.13648).
    """
    gaps: list[Tensor] = []

    def hook_of(mean: Tensor, variance: Tensor) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor]) -> None:
            v, m = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
            norm = torch.linalg.vector_norm
            gaps.append(norm(variance - v) + norm(mean - m))

        return hook

    hooks = [
        norm.register_forward_pre_hook(hook_of(norm.running_mean, norm.running_var))
        for norm in norms
        if norm.running_mean is not None and norm.running_var is not None
    ]
    try:
        yield gaps
    finally:
        for hook in hooks:
            hook.remove()


def require_signals(asked: frozenset[Signal], available: frozenset[Signal]) -> None:
    """Check that a teacher can compute all signals that are asked for.

    Raises:
        NeedsError: naming those that it cannot compute, and those that it can.
    """
    if missing := asked - available:
        raise NeedsError(
            f"this teacher cannot compute {', '.join(sorted(missing))}, only "
            f"{', '.join(sorted(available))}; choose a method that needs no more"
        )
