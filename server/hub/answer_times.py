"""Answer times of one institution, as counts in buckets: of fixed size, and sums over resumed runs.

Bucket 0 has times up to `SHORTEST`; each further one ends `RATIO` times later than the one before.
A quantile is the geometric middle of its bucket, so it is wrong by at most a tenth.
"""

import math
from collections.abc import Mapping

SHORTEST = 0.001
"""Seconds."""
RATIO = 1.2
BUCKETS = 80
"""The last one ends after 1,800 s, and has all that took longer."""
KEY = "answers_in_bucket_"
"""Counters of a run are integers by name; this and the number of a bucket is a name."""


class AnswerTimes:
    """Counts of answers by the time that they took."""

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS

    def add(self, seconds: float) -> None:
        """Counts one answer."""
        steps = math.log(max(seconds, SHORTEST) / SHORTEST, RATIO)
        self._counts[min(math.ceil(steps), BUCKETS - 1)] += 1

    def copy(self) -> "AnswerTimes":
        """The counts as they are now; for any thread."""
        same = AnswerTimes()
        same._counts = self._counts.copy()
        return same

    @property
    def counters(self) -> dict[str, int]:
        """The buckets that are not empty, by name of counter."""
        return {f"{KEY}{bucket}": n for bucket, n in enumerate(self._counts.copy()) if n}


def answer_time_quantile(counters: Mapping[str, int], share: float) -> float | None:
    """Seconds within which this share of the answers came.

    Args:
        counters: of an institution; those of other names are ignored.
        share: in (0, 1].

    Returns:
        None if no answer was counted.
    """
    counts = {int(k.removeprefix(KEY)): n for k, n in counters.items() if k.startswith(KEY)}
    needed, found = share * sum(counts.values()), 0
    for bucket in sorted(counts):
        found += counts[bucket]
        if found >= needed and counts[bucket]:
            return SHORTEST * RATIO ** (bucket - 0.5) if bucket else SHORTEST
    return None
