"""fedkd: one student, distilled from models that never leave the institutions that trained them.

The names below are the public ones; each is imported when it is first used, so that a command's
``--help`` does not wait for torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedkd.core.run_plan import Distilled, Plan
    from fedkd.loop import distil, drive
    from fedkd.models import InProcess
    from fedkd.protocol import Ask, Card, PullBack, Reply, Signal

# ONNX Runtime would keep a device's id under the user's home and send events to its maker. It reads
# this once, as it is imported: by us, by torch's exporter, or by an owner's own teacher.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME = {
    "Ask": "fedkd.protocol",
    "Card": "fedkd.protocol",
    "Distilled": "fedkd.core.run_plan",
    "InProcess": "fedkd.models",
    "Plan": "fedkd.core.run_plan",
    "PullBack": "fedkd.protocol",
    "Reply": "fedkd.protocol",
    "Signal": "fedkd.protocol",
    "distil": "fedkd.loop",
    "drive": "fedkd.loop",
}

__all__ = [
    "Ask",
    "Card",
    "Distilled",
    "InProcess",
    "Plan",
    "PullBack",
    "Reply",
    "Signal",
    "distil",
    "drive",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"fedkd has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)
