"""Device placement and numeric precision of the coordinator's networks.

What comes from institutions and what goes to them lies in ordinary memory; student, generator and
bank lie on one device, and nothing but a batch goes to and fro.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedkd.core.batch_norm import evaluated_by_batch_statistics
from fedkd.errors import SettingsError
from fedkd.protocol import as_float

MEMORY = torch.device("cpu")
Precision = Literal["auto", "fastest", "float32", "bfloat16"]
BFLOAT16_UNIT = "amx_bf16"
"""Of a processor that computes tiles of bfloat16; AVX-512 with bfloat16 alone was slower than
float32."""


@dataclass(frozen=True)
class Compute:
    """One device, and the type in which convolutions and products are computed there.

    Args:
        device: of the networks and of the bank.
        dtype: float32, or bfloat16 where autocast takes it; weights, losses and sums stay float32.
        batch_statistics: whether batch norm goes by the statistics of each batch in evaluation too.
    """

    device: torch.device = MEMORY
    dtype: torch.dtype = torch.float32
    batch_statistics: bool = False

    @classmethod
    def of(cls, device: str, precision: Precision) -> "Compute":
        """From settings; ``auto`` is CUDA where there is any, and bfloat16 there alone.

        ``fastest`` is bfloat16 where the device has units for it, else float32.

        Raises:
            SettingsError: there is no such device here.
        """
        name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            chosen = torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise SettingsError(
                f'student.device {name!r} is not to be had here ({reason}); choose "auto"'
            ) from error
        rough = {
            "auto": chosen.type == "cuda",
            "fastest": has_bfloat16_units(chosen),
            "float32": False,
            "bfloat16": True,
        }[precision]
        return cls(chosen, torch.bfloat16 if rough else torch.float32)

    @property
    def fused(self) -> bool | None:
        """What an optimiser is to be told: one kernel for all weights, where there is one."""
        return True if self.device.type in ("cpu", "cuda") else None

    def place(self, network: nn.Module) -> None:
        """Move ``network`` to the device, its weights in the order that convolutions like best."""
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def bring_back(self, network: nn.Module) -> None:
        """Move ``network`` here in the order in which everybody else expects it."""
        network.to(self.device, memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def pixels(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 or floats -> float32 in [0, 1] on the device, differentiably."""
        unit = as_float(images.to(self.device, non_blocking=True))
        return unit.contiguous(memory_format=torch.channels_last)

    def autocast(self) -> AbstractContextManager[object]:
        """Within it, convolutions and products are computed in ``dtype``."""
        return torch.autocast(self.device.type, self.dtype, self.dtype is not torch.float32)

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Of ``network``, which is placed, on images on any device: (B, K) float32."""
        with self.autocast():
            logits: Tensor = network(self.pixels(images))
        return logits.float()

    def evaluation(self, network: nn.Module) -> AbstractContextManager[None]:
        """``network`` is in evaluation mode in this context."""
        if self.batch_statistics:
            return evaluated_by_batch_statistics(network)
        network.eval()
        return nullcontext()

    def frozen_logits(
        self, network: nn.Module, images: Tensor, *, training: bool = False
    ) -> Tensor:
        """`logits`, differentiable in the images alone: weights cost nothing.

        Args:
            network: placed.
            images: on any device.
            training: in training mode, where batch norm takes the statistics of the batch and
                remembers them; otherwise in evaluation mode.
        """
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        for weight in weights:
            weight.requires_grad_(False)
        with nullcontext(network.train()) if training else self.evaluation(network):
            logits = self.logits(network, images)
        for weight in weights:
            weight.requires_grad_(True)
        return logits


CPU = Compute()


def device_of(network: nn.Module) -> torch.device:
    """Where its weights lie; ordinary memory where it has none."""
    first = next(network.parameters(), None)
    return MEMORY if first is None else first.device


def has_bfloat16_units(device: torch.device) -> bool:
    """Whether ``device`` computes products of bfloat16 faster than those of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    told = getattr(torch.cpu, "get_capabilities", None)  # since torch 2.12
    capabilities: Mapping[str, object] = told() if told else {}
    return device.type == "cpu" and bool(capabilities.get(BFLOAT16_UNIT))
