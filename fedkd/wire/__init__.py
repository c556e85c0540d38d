"""The wire protocol: messages, their encoding, the session state machine, recordings of replies.

gRPC is set up in `fedkd.wire.channel`, which is imported by itself where a network is needed.
"""

from fedkd.wire.codec import decode_from_coordinator, decode_from_institution, encode
from fedkd.wire.messages import (
    LONGEST_NAME,
    VERSION,
    Answer,
    Close,
    Declined,
    FromCoordinator,
    FromInstitution,
    Hello,
    Invalid,
    Message,
    Named,
    Question,
    Welcome,
    one_line,
)
from fedkd.wire.recipes import too_large
from fedkd.wire.recording import Heard, Lost, Recorder, Replay
from fedkd.wire.session import MAX_IN_FLIGHT, Role, Session, State

__all__ = [
    "LONGEST_NAME",
    "MAX_IN_FLIGHT",
    "VERSION",
    "Answer",
    "Close",
    "Declined",
    "FromCoordinator",
    "FromInstitution",
    "Heard",
    "Hello",
    "Invalid",
    "Lost",
    "Message",
    "Named",
    "Question",
    "Recorder",
    "Replay",
    "Role",
    "Session",
    "State",
    "Welcome",
    "decode_from_coordinator",
    "decode_from_institution",
    "encode",
    "one_line",
    "too_large",
]
