"""Kinds of faults, what must come of each, and a fault with its outcome."""

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """A kind of fault; its value is its name in tables."""

    KILLED = "agent killed (-9) at an answer"
    HANG = "teacher hangs past the deadline"
    FROZEN = "agent frozen (SIGSTOP, SIGCONT)"
    RESET = "connection reset (RST)"
    SLOW = "slow: answers after twice the time"
    LEDGER = "ledger deleted while serving"
    REPEATS = "coordinator repeats one question"
    GARBAGE = "garbage bytes"
    SHAPE = "answer of a wrong shape"
    NAN = "answer that is not a number"
    DUPLICATE = "answer given twice"
    STALE = "answer to an older question"
    LYING = "lies: answers inverted, counts false"
    TOKEN = "wrong token"
    CERTIFICATE = "expired certificate"
    CARD_COUNTS = "late joiner: class counts of 2^64 - 1"
    CARD_CLASSES = "late joiner: 65,536 classes"
    CARD_SHAPE = "late joiner: 2^31 x 2^31 x 2^31 pixels"
    SILENT = "288 streams without a Hello"
    HEALTH = "288 health calls never finished"
    COMPRESSED = "8 first messages of 58 MiB, gzipped"
    DISK = "full disk (journal or state)"
    COORDINATOR = "coordinator killed (-9)"


FREQUENT_INSTITUTION_FAULTS = (
    FaultKind.KILLED,
    FaultKind.HANG,
    FaultKind.FROZEN,
    FaultKind.RESET,
)
"""Faults of honest institutions, in each part of a run."""
SINGLE_INSTITUTION_FAULTS = (FaultKind.SLOW, FaultKind.LEDGER, FaultKind.REPEATS)
"""Faults of honest institutions, once in a run, each in another part of it."""
INSTITUTION_FAULTS = (*FREQUENT_INSTITUTION_FAULTS, *SINGLE_INSTITUTION_FAULTS)
"""Faults of honest institutions."""
PROTOCOL_VIOLATIONS = (
    FaultKind.GARBAGE,
    FaultKind.SHAPE,
    FaultKind.NAN,
    FaultKind.DUPLICATE,
    FaultKind.STALE,
)
"""Messages of malicious institutions, who are banned for them."""
AUTHENTICATION_FAULTS = (FaultKind.TOKEN, FaultKind.CERTIFICATE)
"""Attempts to join without valid credentials."""
ABSURD_CARDS = (FaultKind.CARD_COUNTS, FaultKind.CARD_CLASSES, FaultKind.CARD_SHAPE)
"""Cards of a late joiner, who has a certificate and a token."""
UNFINISHED_CALLS = (FaultKind.SILENT, FaultKind.HEALTH)
"""Calls that take places and are never finished, all of one certificate."""
STRANGER_FAULTS = (*ABSURD_CARDS, *UNFINISHED_CALLS, FaultKind.COMPRESSED)
"""Faults of strangers: each has a certificate, and takes no part in the run."""
COORDINATOR_FAULTS = (FaultKind.DISK, FaultKind.COORDINATOR)
"""Faults of the coordinator's process."""

EXPECTED_OUTCOMES: dict[FaultKind, str] = {
    FaultKind.KILLED: "restarted, comes back; its ledger verifies",
    FaultKind.HANG: "passed over, asked again once it has answered",
    FaultKind.FROZEN: "passed over, asked again once it has answered",
    FaultKind.RESET: "dials again, and is asked again",
    FaultKind.SLOW: "waited for: 9 of 10 of its slow answers are recorded",
    FaultKind.LEDGER: "refuses to answer; asked again once the file is back",
    FaultKind.REPEATS: "charged once; 100 repeats are at most 3 rows of its ledger",
    **dict.fromkeys(PROTOCOL_VIOLATIONS, "banned for the run, and refused when it returns"),
    FaultKind.LYING: "left out by the coordinator, alone: event `reliability`",
    FaultKind.TOKEN: "refused: UNAUTHENTICATED",
    FaultKind.CERTIFICATE: "refused by TLS, where a valid certificate was heard",
    **dict.fromkeys(ABSURD_CARDS, "refused: INVALID_ARGUMENT, with the bound"),
    **dict.fromkeys(UNFINISHED_CALLS, "others are heard meanwhile, and queries go on"),
    FaultKind.COMPRESSED: "refused unread: the coordinator grows by less than 100 MiB",
    FaultKind.DISK: "stops with a clear error or goes on with a warning; resumed",
    FaultKind.COORDINATOR: "resumed",
}
"""Required outcome of each kind."""


@dataclass
class Fault:
    """A planned fault, and its outcome.

    Attributes:
        kind: what goes wrong.
        victim: name of an institution or a stranger; "" for the coordinator.
        question: number of the query after which it is injected.
        delay: seconds after that query.
        before: rows in the victim's ledger when it was injected.
        injected: whether it was injected.
        noticed: whether the required outcome was observed.
        recovered: whether the victim works again; for a fault that bans the victim, whether the
            run ended without it.
        attempts: times that it was tried, where the coordinator was down at first.
        note: the evidence: what was observed, or why nothing was.
    """

    kind: FaultKind
    victim: str
    question: int
    delay: float
    before: int = 0
    injected: bool = False
    noticed: bool = False
    recovered: bool = False
    attempts: int = 0
    note: str = ""
