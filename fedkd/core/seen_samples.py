"""Which images were met before, in eight bytes each. Knows no bank and no teacher."""

import hashlib
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Keys: TypeAlias = NDArray[np.uint64]
_BYTES = 8
_FEW = 4096


class Met:
    """Keys that were met: a sorted array, and the few that came since it was last sorted.

    A run of five million questions keeps 40 MB; as a set of Python's they would be half a GB. Two
    images of one key would be taken for one, and the second left unasked: with five million, in
    one run of a million.
    """

    def __init__(self, keys: Keys | None = None) -> None:
        self._sorted = np.unique(np.empty(0, np.uint64) if keys is None else keys)
        self._lately: set[int] = set()

    def __len__(self) -> int:
        """Keys, each counted once."""
        return len(self._sorted) + len(self._lately)

    @property
    def keys(self) -> Keys:
        """All of them, rising."""
        self._sort()
        return self._sorted

    def among(self, keys: Keys) -> NDArray[np.bool_]:
        """Which of ``keys`` were met."""
        place = np.searchsorted(self._sorted, keys)
        found = np.zeros(len(keys), np.bool_)
        inside = place < len(self._sorted)
        found[inside] = self._sorted[place[inside]] == keys[inside]
        lately = np.fromiter((key in self._lately for key in keys.tolist()), np.bool_, len(keys))
        return found | lately

    def add(self, keys: Keys) -> None:
        """Those were met too."""
        self._lately.update(keys[~self.among(keys)].tolist())
        # By a share of all, so that sorting costs the same for each, however many there are.
        if len(self._lately) > max(_FEW, len(self._sorted) // 8):
            self._sort()

    def _sort(self) -> None:
        if self._lately:
            lately = np.fromiter(self._lately, np.uint64, len(self._lately))
            self._sorted = np.union1d(self._sorted, lately)
            self._lately.clear()


def keys_of(images: NDArray[np.uint8]) -> Keys:
    """A key for each image, (B, ...) -> (B,): equal bytes, equal keys."""
    digests = (hashlib.blake2b(image.tobytes(), digest_size=_BYTES).digest() for image in images)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
