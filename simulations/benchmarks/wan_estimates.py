"""What a wire of so many bytes takes over links that nobody here has: arithmetic, no network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

FORMULA = (
    "Seconds of a round: RTT + max(Q / h, T Q / c) + max(A / h, T A / c) + d + T w, with Q and A "
    "the bits of a question and of an answer, h and c the links of an institution and of the "
    "coordinator in bit/s, both ways alike, T institutions, d the time to draw images by a recipe, "
    "and w what this machine takes for one of many institutions that all share it. A run has "
    "ceil(samples / batch) rounds, one after the other; a teacher's own time comes on top."
)
"""In words, for whoever reads the table."""


@dataclass(frozen=True)
class World:
    """Institutions far away.

    Attributes:
        institutions: T, who are all asked at once.
        link: of each of them, in bit/s, the same both ways.
        rtt: seconds there and back.
        samples: that each is asked about in a run.
    """

    institutions: int = 100
    link: float = 50e6
    rtt: float = 0.040
    samples: int = 20_000


@dataclass(frozen=True)
class Kind:
    """A kind of question.

    Attributes:
        images: how they travel.
        bytes: of a question.
        drawing: seconds that an institution takes to come to the images.
    """

    images: str
    bytes: float
    drawing: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """What a world would take.

    Attributes:
        images: how they travel.
        uplink: of the coordinator, in bit/s.
        round: seconds.
        run: seconds of all rounds.
        sent: bytes that leave the coordinator in a run.
    """

    images: str
    uplink: float
    round: float
    run: float
    sent: float


def estimates(
    kinds: Sequence[Kind],
    answer: float,
    batch: int,
    handling: float,
    uplinks: Sequence[float] = (50e6, 1e9, 10e9),
    world: World | None = None,
) -> list[Estimate]:
    """By `FORMULA`, for each kind of question and each uplink of the coordinator.

    Args:
        kinds: of questions.
        answer: bytes.
        batch: images of a question, >= 1.
        handling: w, seconds.
        uplinks: in bit/s.
        world: None for the default.
    """
    w = world or World()
    rounds = math.ceil(w.samples / batch)
    made = []
    for kind in kinds:
        size = kind.bytes
        for uplink in uplinks:
            seconds = (
                w.rtt
                + max(8 * size / w.link, 8 * size * w.institutions / uplink)
                + max(8 * answer / w.link, 8 * answer * w.institutions / uplink)
                + kind.drawing
                + w.institutions * handling
            )
            sent = rounds * w.institutions * size
            made.append(Estimate(kind.images, uplink, seconds, rounds * seconds, sent))
    return made
