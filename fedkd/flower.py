"""Flower apps around a user's own teachers and student.

    app = fedkd.flower.teacher_app(load_teacher, shape=(1, 28, 28))    # client_app.py
    app = fedkd.flower.student_app("cnn")                              # server_app.py

Each is imported when it is first used: a node of an institution imports nothing of the server's.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedkd.client.teacher_app import teacher_app
    from fedkd.server.flower_strategy import DataFreeDistillation
    from fedkd.server.student_app import student_app

_HOME = {
    "DataFreeDistillation": "fedkd.server.flower_strategy",
    "student_app": "fedkd.server.student_app",
    "teacher_app": "fedkd.client.teacher_app",
}

__all__ = ["DataFreeDistillation", "student_app", "teacher_app"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"fedkd.flower has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
