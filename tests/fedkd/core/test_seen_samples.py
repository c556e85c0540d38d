"""Seen samples: what was seen is recognised, whatever the batches; what was not is not."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedkd.core.seen_samples import SeenSamples, sample_keys

NUMBERS = st.integers(0, 2**64 - 1) | st.integers(0, 40)


def array(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.uint64)


@given(st.lists(st.lists(NUMBERS, max_size=30), max_size=8), st.lists(NUMBERS, max_size=30))
def test_it_knows_what_a_set_knows(batches: list[list[int]], asked: list[int]) -> None:
    seen, plain = SeenSamples(), set[int]()
    for batch in batches:
        seen.add(array(batch))
        plain.update(batch)
        assert len(seen) == len(plain)
        assert seen.contains(array(asked)).tolist() == [number in plain for number in asked]
    assert seen.keys.tolist() == sorted(plain)
    assert SeenSamples(seen.keys).contains(array(asked)).tolist() == [
        number in plain for number in asked
    ]


def test_many_are_kept_in_eight_bytes_each() -> None:
    """Beyond what is kept apart as having come lately."""
    seen, rng = SeenSamples(), np.random.default_rng(0)
    numbers = rng.integers(0, 2**63, 60_000).astype(np.uint64)
    for batch in np.split(numbers, 600):
        seen.add(batch)
        assert seen.contains(batch).all()
    assert seen._sorted.nbytes >= 8 * 0.85 * len(np.unique(numbers))
    assert seen.contains(numbers).all()
    assert not seen.contains(rng.integers(2**63, 2**64, 10_000, np.uint64)).any()
    assert len(seen) == len(np.unique(numbers))


def test_equal_bytes_have_equal_keys_and_others_do_not() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2000, 1, 8, 8), np.uint8)
    keys = sample_keys(images)
    assert keys.shape == (2000,)
    assert len(np.unique(keys)) == 2000
    assert (sample_keys(images[::-1].copy()) == keys[::-1]).all()
    images[0, 0, 0, 0] ^= 1
    assert (sample_keys(images) != keys).tolist() == [True] + [False] * 1999
    assert sample_keys(images[:0]).shape == (0,)
