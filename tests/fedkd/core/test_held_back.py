"""Which samples are held back: a share of all, by digest and seed, whatever was answered."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.core.bank import Bank
from fedkd.core.held_back import is_held_back
from fedkd.core.run_plan import Plan
from fedkd.core.seen_samples import sample_keys
from fedkd.errors import SettingsError
from tests.fedkd.core.test_bank import numbered

SEEDS = st.integers(-(2**70), 2**70)


@given(st.sampled_from([0.0, 0.05, 0.2, 0.5]), SEEDS)
def test_the_share_of_the_samples_is_held_back(share: float, seed: int) -> None:
    keys = sample_keys(numbered(0, 4000)[0].numpy())
    held = is_held_back(keys, share, seed)
    assert abs(held.mean() - share) <= 6 * (share * (1 - share) / len(keys)) ** 0.5
    assert np.array_equal(held, is_held_back(keys, share, seed))
    assert np.array_equal(held[::-1], is_held_back(keys[::-1], share, seed))


def test_another_seed_holds_back_others() -> None:
    keys = sample_keys(numbered(0, 4000)[0].numpy())
    one, other = (is_held_back(keys, 0.5, seed) for seed in (0, 1))
    assert 0.4 < (one == other).mean() < 0.6


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=6),
    st.none() | st.integers(60, 90),
    st.sampled_from([0.05, 0.5]),
    SEEDS,
    st.booleans(),
)
def test_what_is_held_back_is_kept_and_never_drawn(
    batches: list[int], capacity: int | None, share: float, seed: int, selects: bool
) -> None:
    bank, total, rng = Bank(capacity, held_back=share, seed=seed), 0, torch.Generator()
    for count in batches:
        images, targets = numbered(total, count)
        selected = torch.arange(count) % 2 == 0 if selects else None
        kept = bank.add(images, targets, selected, times=2)
        held = torch.from_numpy(is_held_back(sample_keys(images.numpy()), share, seed))
        assert (kept is None) if selected is None else torch.equal(kept, selected | held)  # type: ignore[arg-type]
        total += count
        drawn = {int(t) for t in bank.draw(256, rng)[1][:, 0]}
        apart = {int(t) for t in bank.held_back(10_000)[1][:, 0]}
        assert drawn.isdisjoint(apart)
        assert drawn
        assert len(apart) + len(bank.learned) == len(bank)
        assert {int(t) for t in bank.targets[bank.learned][:, 0]} >= drawn


def test_the_latest_of_what_is_held_back_come_in_order() -> None:
    bank = Bank(capacity=200, held_back=0.5)
    bank.add(*numbered(0, 150))
    bank.add(*numbered(150, 150))
    images, targets = bank.held_back(10_000)
    numbers = targets[:, 0].tolist()
    assert numbers == sorted(numbers)
    assert torch.equal(images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1].long(), targets[:, 0])
    assert bank.held_back(7)[1][:, 0].tolist() == numbers[-7:]


def test_restored_banks_hold_the_same_back() -> None:
    bank, again = Bank(held_back=0.3, seed=3), Bank(held_back=0.3, seed=3)
    bank.add(*numbered(0, 100))
    again.restore(bank.state())
    for each in (bank, again):
        each.add(*numbered(100, 50))
    assert torch.equal(bank.held_back(500)[1], again.held_back(500)[1])
    one, other = (b.draw(64, torch.Generator().manual_seed(1))[1] for b in (bank, again))
    assert torch.equal(one, other)


@pytest.mark.parametrize("share", [-0.1, 0.51, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(SettingsError, match=r"expected a share of the questions in \[0, 0.5\]"):
        Plan(10, held_back=share)


def test_what_is_newest_to_learn_from_is_never_held_back() -> None:
    bank = Bank(held_back=0.5, seed=3)
    images, targets = numbered(0, 40)
    bank.add(images, targets)
    apart = {int(t) for t in bank.held_back(40)[1][:, 0]}
    newest, answered = bank.newest_answered(20)
    assert {int(t) for t in answered[:, 0]} == {*range(20, 40)} - apart
    assert torch.equal(newest, bank.newest(20))
    assert torch.equal(newest, images[answered[:, 0].long()])


def test_no_held_back_question_loses_rows_where_questions_are_whole() -> None:
    """A teacher by batch statistics answers a batch; a part of it has another answer."""
    bank = Bank(held_back=0.5, seed=1, by_question=True, whole_questions=True)
    for question in range(12):
        bank.add(*numbered(51 * question, 51))
    whole = bank.held_back_sizes(10_000)
    assert len(whole) > 3
    assert set(whole) == {51}
    for most in (60, 102, 103):
        sizes = bank.held_back_sizes(most)
        assert sizes == [51] * (most // 51)
        assert len(bank.held_back(most)[0]) == sum(sizes)
