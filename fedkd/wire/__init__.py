"""The wire protocol: messages, their encoding, the session state machine, recordings of replies.

gRPC is set up in `fedkd.wire.grpc_channels`, which is imported by itself where a network is needed.
"""

from fedkd.protocol import MAX_NAME_LENGTH
from fedkd.wire.codec import decode_from_coordinator, decode_from_institution, encode
from fedkd.wire.recipes import exceeds_limits
from fedkd.wire.reply_recording import ReplyRecorder
from fedkd.wire.reply_replay import MissingInstitutions, QueryOutcome, Replay
from fedkd.wire.session_messages import (
    VERSION,
    Answer,
    Close,
    Declined,
    FromCoordinator,
    FromInstitution,
    Hello,
    Invalid,
    Message,
    Query,
    RecipeQuery,
    Welcome,
    one_line,
)
from fedkd.wire.session_state_machine import MAX_IN_FLIGHT, MAX_UNRENDERED, Role, Session, State

__all__ = [
    "MAX_IN_FLIGHT",
    "MAX_NAME_LENGTH",
    "MAX_UNRENDERED",
    "VERSION",
    "Answer",
    "Close",
    "Declined",
    "FromCoordinator",
    "FromInstitution",
    "Hello",
    "Invalid",
    "Message",
    "MissingInstitutions",
    "Query",
    "QueryOutcome",
    "RecipeQuery",
    "Replay",
    "ReplyRecorder",
    "Role",
    "Session",
    "State",
    "Welcome",
    "decode_from_coordinator",
    "decode_from_institution",
    "encode",
    "exceeds_limits",
    "one_line",
]
