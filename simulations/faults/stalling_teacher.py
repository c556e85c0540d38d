"""A teacher network that stalls or slows down on request; requests are files in a folder.

An owner names it as ``factory:fedkd.simulations.faults.stalling_teacher:make``, so that the rest of
the institution is a real one.
"""

import time
from pathlib import Path

from torch import Tensor, nn

from fedkd.models import build_network

STALL_REQUEST, STALL_STARTED = "order", "obeyed"
"""Files in its folder: the seconds to stall, and the same file once the stall has started."""
SLOW_REQUEST = "slow"
"""File in its folder: while it is there, every answer takes twice its time."""
POLL_SECONDS = 0.02


class StallingTeacher(nn.Module):
    """A network whose answers are delayed.

    Args:
        network: (B, C, H, W) -> (B, K).
        folder: of stall requests.
        answer_seconds: added to every answer, as for a large network.
    """

    def __init__(self, network: nn.Module, folder: Path, answer_seconds: float) -> None:
        super().__init__()
        self.network, self._folder, self._answer_seconds = network, folder, answer_seconds

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] -> logits (B, K)."""
        began = time.monotonic()
        time.sleep(self._answer_seconds)
        order, started = self._folder / STALL_REQUEST, self._folder / STALL_STARTED
        if order.exists():
            end = time.monotonic() + float(order.read_text())
            order.rename(started)
            while started.exists() and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
        logits: Tensor = self.network(x)
        if (self._folder / SLOW_REQUEST).exists():
            time.sleep(time.monotonic() - began)
        return logits


def make(
    model: str, shape: list[int], classes: int, folder: str, answer_seconds: float
) -> StallingTeacher:
    """The factory that an owner's configuration names; weights come from a file beside it."""
    channels, height, width = shape
    return StallingTeacher(
        build_network(model, classes, (channels, height, width), 0), Path(folder), answer_seconds
    )


def request_stall(folder: Path, seconds: float) -> None:
    """Have the teacher of this folder stall at its next answer, until that is cancelled."""
    (folder / STALL_STARTED).unlink(missing_ok=True)
    temporary = folder / f".{STALL_REQUEST}"
    temporary.write_text(str(seconds))
    temporary.rename(folder / STALL_REQUEST)


def cancel_stall(folder: Path) -> None:
    """End a stall, and cancel a request that has not started yet."""
    for name in (STALL_REQUEST, STALL_STARTED):
        (folder / name).unlink(missing_ok=True)


def request_slowness(folder: Path, slow: bool) -> None:
    """Have the teacher of this folder take twice its time for every answer, or no longer."""
    if slow:
        (folder / SLOW_REQUEST).touch()
    else:
        (folder / SLOW_REQUEST).unlink(missing_ok=True)
