"""Seen samples: which samples were asked about before, as a hash of eight bytes each."""

import hashlib
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Keys: TypeAlias = NDArray[np.uint64]
_BYTES = 8
_FEW = 4096


class SeenSamples:
    """Keys of samples that were seen: a sorted array, and the few added since it was last sorted.

    A run of five million samples keeps 40 MB; as a Python set they would be half a GB. Two samples
    with one key are taken for one, and the second is never asked about: with five million samples,
    in one run of a million.
    """

    def __init__(self, keys: Keys | None = None) -> None:
        self._sorted = np.unique(np.empty(0, np.uint64) if keys is None else keys)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        """Keys, each counted once."""
        return len(self._sorted) + len(self._recent)

    @property
    def keys(self) -> Keys:
        """All of them, sorted."""
        self._sort()
        return self._sorted

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Which of ``keys`` were seen."""
        position = np.searchsorted(self._sorted, keys)
        found = np.zeros(len(keys), np.bool_)
        inside = position < len(self._sorted)
        found[inside] = self._sorted[position[inside]] == keys[inside]
        recent = np.fromiter((key in self._recent for key in keys.tolist()), np.bool_, len(keys))
        return found | recent

    def add(self, keys: Keys) -> None:
        """Count ``keys`` as seen."""
        self._recent.update(keys[~self.contains(keys)].tolist())
        # By a share of all, so that sorting costs the same for each, however many there are.
        if len(self._recent) > max(_FEW, len(self._sorted) // 8):
            self._sort()

    def _sort(self) -> None:
        if self._recent:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.union1d(self._sorted, recent)
            self._recent.clear()


def sample_keys(images: NDArray[np.uint8]) -> Keys:
    """A key for each sample, (B, ...) -> (B,): equal bytes, equal keys."""
    digests = (hashlib.blake2b(image.tobytes(), digest_size=_BYTES).digest() for image in images)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)
