"""What can go wrong, and when it does in one run. Knows no process."""

import random
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """A fault; its value is what a table calls it."""

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


TO_INSTITUTIONS = (Kind.KILLED, Kind.HANG, Kind.FROZEN, Kind.RESET)
"""What strikes honest institutions."""
MISDEEDS = (Kind.GARBAGE, Kind.SHAPE, Kind.NAN, Kind.DUPLICATE, Kind.STALE)
"""What saboteurs say; each is struck off for it."""
INTRUSIONS = (Kind.TOKEN, Kind.CERTIFICATE)
TO_COORDINATOR = (Kind.DISK, Kind.COORDINATOR)

RIGHT: dict[Kind, str] = {
    Kind.KILLED: "restarted, comes back; its ledger holds together",
    Kind.HANG: "passed over, asked again once it has answered",
    Kind.FROZEN: "passed over, asked again once it has answered",
    Kind.RESET: "dials again, and is asked again",
    **dict.fromkeys(MISDEEDS, "struck off for the run, and refused when it returns"),
    Kind.TOKEN: "refused: UNAUTHENTICATED",
    Kind.CERTIFICATE: "refused by TLS",
    Kind.DISK: "stops with a clear error or goes on with a warning; resumed",
    Kind.COORDINATOR: "resumed",
}
"""What has to come of it."""


@dataclass
class Fault:
    """One that is planned, and what came of it.

    Attributes:
        kind: what goes wrong.
        victim: name of an institution; "" for the coordinator.
        question: after which it happens.
        delay: seconds from then on.
        before: rows in the victim's ledger when it happened.
        injected: it did happen.
        noticed: what has to come of it came.
        recovered: whoever was struck works again; for a fault that excludes somebody, the run
            ended without him.
        note: what was heard of it.
    """

    kind: Kind
    victim: str
    question: int
    delay: float
    before: int = 0
    injected: bool = False
    noticed: bool = False
    recovered: bool = False
    note: str = ""


PARTS = 3
"""Of a run: thirds."""
AGAIN = (*TO_INSTITUTIONS, *INTRUSIONS)
"""What strikes in each part of a run; the rest strikes once."""


def departures(seed: int, saboteurs: list[str], questions: int) -> dict[str, int]:
    """After which question each saboteur leaves the runs of a seed, one way or the other."""
    rng = random.Random(f"departures {seed}")
    return {name: moment(rng, questions, rng.randrange(PARTS)) for name in saboteurs}


def plan(
    rng: random.Random, honest: list[str], leaving: dict[str, int], questions: int, most: int
) -> list[Fault]:
    """What happens in one run, at most ``most`` faults, by rising question.

    Each saboteur commits one misdeed, at the question after which it leaves; each honest
    institution suffers one thing in each part. Nothing happens at the first or the last eighth of
    the questions: there is something to lose, and time to recover.
    """
    saboteurs = list(leaving)
    kinds = [*((kind, part) for kind in AGAIN for part in range(PARTS))]
    kinds += [(kind, rng.randrange(PARTS)) for kind in Kind if kind not in AGAIN]
    sinners = rng.sample(saboteurs, len(saboteurs))
    sufferers = [rng.sample(honest, len(honest)) for _ in range(PARTS)]
    faults = []
    for kind, part in rng.sample(kinds, min(most, len(kinds))):
        victim, question = "", moment(rng, questions, part)
        if kind in MISDEEDS:
            victim = sinners.pop()
            question = leaving[victim]
        elif kind in TO_INSTITUTIONS:
            victim = sufferers[part].pop()
        elif kind in INTRUSIONS:
            victim = rng.choice(saboteurs)
        faults.append(Fault(kind, victim, question, rng.uniform(0.0, 0.1)))
    return sorted(faults, key=lambda fault: fault.question)


def moment(rng: random.Random, questions: int, part: int) -> int:
    """After which question something happens, in a part of the run counted from 0."""
    eighth = questions // 8
    long = 6 * eighth // PARTS
    return eighth + part * long + rng.randrange(long)
