"""Held-back samples: which answered samples the student never learns from, by their digests.

A digest decides, with the run's seed, so no source, no answer and no difficulty has a part in it:
each source loses the same share, in every engine and after a resume the same samples.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from fedkd.core.seen_samples import Keys
from fedkd.errors import SettingsError

LARGEST_SHARE = 0.5
"""The student learns from the rest."""
_BYTES = 8


def is_held_back(keys: Keys, share: float, seed: int) -> NDArray[np.bool_]:
    """Which samples are held back, each with probability ``share``. (B,) -> (B,).

    Args:
        keys: of the samples, see `fedkd.core.seen_samples.sample_keys`; uniform, as hashes are.
        share: in [0, 0.5].
        seed: of the run; another one holds back others.
    """
    digest = hashlib.blake2b(str(seed).encode(), digest_size=_BYTES, person=b"held back").digest()
    mixed = _mixed(keys ^ np.uint64(int.from_bytes(digest, "little")))
    return mixed < np.uint64(int(share * 2 ** (8 * _BYTES)))


def _mixed(keys: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), modulo 2^64.

    Without it two seeds would hold back the same samples, or none in common.
    """
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Keys = keys ^ (keys >> np.uint64(31))
    return mixed


def check_held_back(share: float) -> None:
    """Refuse a share that is none.

    Raises:
        SettingsError: it is outside of [0, 0.5].
    """
    if not 0 <= share <= LARGEST_SHARE:
        raise SettingsError(
            f"held_back is {share}; expected a share of the questions in [0, {LARGEST_SHARE}], 0 "
            "for none"
        )
