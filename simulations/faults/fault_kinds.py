"""Kinds of faults, what must come of each, and the random plan of the faults of one run."""

import random
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """A kind of fault; its value is its name in tables."""

    KILLED = "agent killed (-9) at an answer"
    HANG = "teacher hangs past the deadline"
    FROZEN = "agent frozen (SIGSTOP, SIGCONT)"
    RESET = "connection reset (RST)"
    GARBAGE = "garbage bytes"
    SHAPE = "answer of a wrong shape"
    NAN = "answer that is not a number"
    DUPLICATE = "answer given twice"
    STALE = "answer to an older question"
    TOKEN = "wrong token"
    CERTIFICATE = "expired certificate"
    DISK = "full disk (journal or state)"
    COORDINATOR = "coordinator killed (-9)"


INSTITUTION_FAULTS = (FaultKind.KILLED, FaultKind.HANG, FaultKind.FROZEN, FaultKind.RESET)
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
COORDINATOR_FAULTS = (FaultKind.DISK, FaultKind.COORDINATOR)
"""Faults of the coordinator's process."""

EXPECTED_OUTCOMES: dict[FaultKind, str] = {
    FaultKind.KILLED: "restarted, comes back; its ledger verifies",
    FaultKind.HANG: "passed over, asked again once it has answered",
    FaultKind.FROZEN: "passed over, asked again once it has answered",
    FaultKind.RESET: "dials again, and is asked again",
    **dict.fromkeys(PROTOCOL_VIOLATIONS, "banned for the run, and refused when it returns"),
    FaultKind.TOKEN: "refused: UNAUTHENTICATED",
    FaultKind.CERTIFICATE: "refused by TLS",
    FaultKind.DISK: "stops with a clear error or goes on with a warning; resumed",
    FaultKind.COORDINATOR: "resumed",
}
"""Required outcome of each kind."""


@dataclass
class Fault:
    """A planned fault, and its outcome.

    Attributes:
        kind: what goes wrong.
        victim: name of an institution; "" for the coordinator.
        question: number of the query after which it is injected.
        delay: seconds after that query.
        before: rows in the victim's ledger when it was injected.
        injected: whether it was injected.
        noticed: whether the required outcome was observed.
        recovered: whether the victim works again; for a fault that bans the victim, whether the
            run ended without it.
        note: details of the outcome.
    """

    kind: FaultKind
    victim: str
    question: int
    delay: float
    before: int = 0
    injected: bool = False
    noticed: bool = False
    recovered: bool = False
    note: str = ""


PARTS_OF_RUN = 3
"""A run is divided into thirds."""
REPEATED_KINDS = (*INSTITUTION_FAULTS, *AUTHENTICATION_FAULTS)
"""Kinds that are injected in each part of a run; all others once in a run."""


def departure_schedule(seed: int, malicious: list[str], questions: int) -> dict[str, int]:
    """Query after which each malicious institution leaves all runs of a seed, banned or not."""
    rng = random.Random(f"departures {seed}")
    return {
        name: random_question(rng, questions, rng.randrange(PARTS_OF_RUN)) for name in malicious
    }


def plan_faults(
    rng: random.Random, honest: list[str], departures: dict[str, int], questions: int, limit: int
) -> list[Fault]:
    """The faults of one run, at most ``limit``, in the order of their queries.

    Each malicious institution sends one protocol violation, at the query after which it leaves;
    each honest institution has one fault in each part. The first and the last eighth of the queries
    have none: there must be something to lose, and time to recover.
    """
    malicious = list(departures)
    kinds = [*((kind, part) for kind in REPEATED_KINDS for part in range(PARTS_OF_RUN))]
    kinds += [
        (kind, rng.randrange(PARTS_OF_RUN)) for kind in FaultKind if kind not in REPEATED_KINDS
    ]
    violators = rng.sample(malicious, len(malicious))
    targets = [rng.sample(honest, len(honest)) for _ in range(PARTS_OF_RUN)]
    faults = []
    for kind, part in rng.sample(kinds, min(limit, len(kinds))):
        victim, question = "", random_question(rng, questions, part)
        if kind in PROTOCOL_VIOLATIONS:
            victim = violators.pop()
            question = departures[victim]
        elif kind in INSTITUTION_FAULTS:
            victim = targets[part].pop()
        elif kind in AUTHENTICATION_FAULTS:
            victim = rng.choice(malicious)
        faults.append(Fault(kind, victim, question, rng.uniform(0.0, 0.1)))
    return sorted(faults, key=lambda fault: fault.question)


def random_question(rng: random.Random, questions: int, part: int) -> int:
    """A random query in a part of the run, counted from 0."""
    eighth = questions // 8
    length = 6 * eighth // PARTS_OF_RUN
    return eighth + part * length + rng.randrange(length)
