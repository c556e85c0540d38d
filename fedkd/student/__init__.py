"""Training of the student on the bank: curriculum, and the networks that learn beside it.

Also the events that tell how far it has come.
"""

from fedkd.student.event_emitter import RunEvents
from fedkd.student.peer_students import Peers
from fedkd.student.primer_student import Primer
from fedkd.student.self_paced_curriculum import UNIFORM, Curriculum
from fedkd.student.training import Trainer

__all__ = [
    "UNIFORM",
    "Curriculum",
    "Peers",
    "Primer",
    "RunEvents",
    "Trainer",
]
