"""Training of the student on the bank: curriculum, and the networks that learn beside it.

Also the events that tell how far it has come.
"""

from fedkd.student.curriculum import UNIFORM, Curriculum
from fedkd.student.peers import Peers
from fedkd.student.primer import Primer
from fedkd.student.progress_events import ProgressEvents
from fedkd.student.training import Trainer

__all__ = [
    "UNIFORM",
    "Curriculum",
    "Peers",
    "Primer",
    "ProgressEvents",
    "Trainer",
]
