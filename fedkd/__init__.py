"""fedkd: one student, distilled from models that never leave the institutions that trained them.

    result = fedkd.fit("cnn", {"north": model, "south": "south.onnx"}, shape=(1, 28, 28))
    result.save("student.safetensors")

The names below are the public ones; each is imported when it is first used, so that a command's
``--help`` does not wait for torch, and an institution imports nothing of the coordinator's.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedkd import flower
    from fedkd.api.fit import fit
    from fedkd.api.fit_result import FitResult
    from fedkd.api.saved_student import SavedStudent, load
    from fedkd.api.serve import serve
    from fedkd.core.run_plan import Distilled, Plan
    from fedkd.loop import distil, drive
    from fedkd.models import InProcess
    from fedkd.privacy import Policy
    from fedkd.protocol import Ask, Card, PullBack, Reply, Signal

    __version__: str

# ONNX Runtime would keep a device's id under the user's home and send events to its maker. It reads
# this once, as it is imported: by us, by torch's exporter, or by an owner's own teacher.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME = {
    "Ask": "fedkd.protocol",
    "Card": "fedkd.protocol",
    "Distilled": "fedkd.core.run_plan",
    "FitResult": "fedkd.api.fit_result",
    "InProcess": "fedkd.models",
    "Plan": "fedkd.core.run_plan",
    "Policy": "fedkd.privacy",
    "PullBack": "fedkd.protocol",
    "Reply": "fedkd.protocol",
    "SavedStudent": "fedkd.api.saved_student",
    "Signal": "fedkd.protocol",
    "distil": "fedkd.loop",
    "drive": "fedkd.loop",
    "fit": "fedkd.api.fit",
    "load": "fedkd.api.saved_student",
    "serve": "fedkd.api.serve",
}

__all__ = [
    "Ask",
    "Card",
    "Distilled",
    "FitResult",
    "InProcess",
    "Plan",
    "Policy",
    "PullBack",
    "Reply",
    "SavedStudent",
    "Signal",
    "__version__",
    "distil",
    "drive",
    "fit",
    "flower",
    "load",
    "serve",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("fedkd")
    if name == "flower":
        return import_module("fedkd.flower")
    if name not in _HOME:
        raise AttributeError(f"fedkd has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
