"""A teacher that can be told to stall. Knows a folder in which it is told, and no network.

An owner names it as ``factory:fedkd.simulations.faults.stalling_teacher:make``: the institution is a real one, and
what goes wrong in it is what goes wrong with teachers.
"""

import time
from pathlib import Path

from torch import Tensor, nn

from fedkd.models import build

ORDER, OBEYED = "order", "obeyed"
"""Files in its folder: seconds that it is to stall, and the same file once it does."""


class Stalling(nn.Module):
    """A network that takes its time.

    Args:
        network: (B, C, H, W) -> (B, K).
        folder: where its orders lie.
        pace: seconds that every answer takes, as a large network's would.
    """

    def __init__(self, network: nn.Module, folder: Path, pace: float) -> None:
        super().__init__()
        self.network, self._folder, self._pace = network, folder, pace

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, K)."""
        time.sleep(self._pace)
        order = self._folder / ORDER
        if order.exists():
            seconds = float(order.read_text())
            order.rename(self._folder / OBEYED)
            time.sleep(seconds)
        said: Tensor = self.network(x)
        return said


def make(model: str, shape: list[int], classes: int, folder: str, pace: float) -> Stalling:
    """What an owner's file asks for; the weights come from a file beside it."""
    channels, height, width = shape
    return Stalling(build(model, classes, (channels, height, width), 0), Path(folder), pace)


def command(folder: Path, seconds: float) -> None:
    """Have the teacher of this folder stall at its next answer."""
    (folder / OBEYED).unlink(missing_ok=True)
    part = folder / f".{ORDER}"
    part.write_text(str(seconds))
    part.rename(folder / ORDER)


def excuse(folder: Path) -> None:
    """Take an order back that was not obeyed yet."""
    for name in (ORDER, OBEYED):
        (folder / name).unlink(missing_ok=True)
