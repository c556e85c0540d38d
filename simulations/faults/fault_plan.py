"""The random plan of the faults of one run: which, to whom, after which query."""

import random
from collections.abc import Sequence

from fedkd.simulations.faults.fault_kinds import (
    AUTHENTICATION_FAULTS,
    FREQUENT_INSTITUTION_FAULTS,
    INSTITUTION_FAULTS,
    PROTOCOL_VIOLATIONS,
    SINGLE_INSTITUTION_FAULTS,
    STRANGER_FAULTS,
    Fault,
    FaultKind,
)

PARTS_OF_RUN = 3
"""A run is divided into thirds."""
REPEATED_KINDS = (*FREQUENT_INSTITUTION_FAULTS, *AUTHENTICATION_FAULTS)
"""Kinds that are injected in each part of a run; all others once in a run."""
HONEST_NEEDED = len(FREQUENT_INSTITUTION_FAULTS) + 1
"""Honest institutions that a plan needs: each has one fault in each part of a run."""


def departure_schedule(seed: int, malicious: list[str], questions: int) -> dict[str, int]:
    """Query after which each malicious institution leaves all runs of a seed, banned or not."""
    rng = random.Random(f"departures {seed}")
    return {
        name: random_question(rng, questions, rng.randrange(PARTS_OF_RUN)) for name in malicious
    }


def plan_faults(
    rng: random.Random,
    honest: Sequence[str],
    departures: dict[str, int],
    liar: str,
    strangers: Sequence[str],
    questions: int,
    limit: int,
) -> list[Fault]:
    """The faults of one run, at most ``limit``, in the order of their queries.

    Each malicious institution sends one protocol violation, at the query after which it leaves;
    each honest institution has one fault in each part. The liar lies from the first query on. Of
    the others the first and the last eighth of the queries have none: there must be something to
    lose, and time to recover.

    Args:
        rng: of kinds, victims and queries.
        honest: `HONEST_NEEDED` names or more.
        departures: see `departure_schedule`.
        liar: name.
        strangers: a name for each of `STRANGER_FAULTS`.
        questions: of the run.
        limit: > 0.
    """
    kinds = [(kind, part) for kind in REPEATED_KINDS for part in range(PARTS_OF_RUN)]
    parts = rng.sample(range(PARTS_OF_RUN), PARTS_OF_RUN)
    kinds += list(zip(SINGLE_INSTITUTION_FAULTS, parts, strict=True))
    once = [kind for kind in FaultKind if kind not in {kind for kind, _ in kinds}]
    kinds += [(kind, rng.randrange(PARTS_OF_RUN)) for kind in once]
    violators = rng.sample(list(departures), len(departures))
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
            victim = rng.choice(list(departures))
        elif kind in STRANGER_FAULTS:
            victim = strangers[STRANGER_FAULTS.index(kind)]
        elif kind is FaultKind.LYING:
            victim, question = liar, 0
        faults.append(Fault(kind, victim, question, rng.uniform(0.0, 0.1)))
    return sorted(faults, key=lambda fault: fault.question)


def random_question(rng: random.Random, questions: int, part: int) -> int:
    """A random query in a part of the run, counted from 0."""
    eighth = questions // 8
    length = 6 * eighth // PARTS_OF_RUN
    return eighth + part * length + rng.randrange(length)
