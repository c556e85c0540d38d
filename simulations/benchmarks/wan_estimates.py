"""Estimate the duration of rounds over a WAN from measured bytes: arithmetic, no network."""

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
"""The formula of the estimates, printed below the table."""


@dataclass(frozen=True)
class NetworkAssumptions:
    """Assumed number and links of distant institutions.

    Attributes:
        institutions: T, all asked at once.
        link: of each of them, in bit/s, the same in both directions.
        rtt: round-trip time in seconds.
        samples: asked of each in a run.
    """

    institutions: int = 100
    link: float = 50e6
    rtt: float = 0.040
    samples: int = 20_000


@dataclass(frozen=True)
class QueryKind:
    """A kind of query.

    Attributes:
        images: how they are encoded.
        bytes: of a query.
        drawing: seconds that an institution needs to render the images.
    """

    images: str
    bytes: float
    drawing: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """Estimated cost of a run.

    Attributes:
        images: how they are encoded.
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
    kinds: Sequence[QueryKind],
    answer: float,
    batch: int,
    handling: float,
    uplinks: Sequence[float] = (50e6, 1e9, 10e9),
    network: NetworkAssumptions | None = None,
) -> list[Estimate]:
    """Estimates by `FORMULA`, for each kind of query and each uplink of the coordinator.

    Args:
        kinds: of queries.
        answer: bytes.
        batch: images of a query, >= 1.
        handling: w, seconds.
        uplinks: in bit/s.
        network: assumptions; None for the defaults.
    """
    w = network or NetworkAssumptions()
    rounds = math.ceil(w.samples / batch)
    estimated = []
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
            estimated.append(Estimate(kind.images, uplink, seconds, rounds * seconds, sent))
    return estimated
