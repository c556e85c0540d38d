"""The bank keeps everything, in order, and knows what was asked before."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.core.bank import Bank
from fedkd.core.held_back import is_held_back
from fedkd.core.seen_samples import sample_keys


def numbered(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that hold their number, and targets that repeat it."""
    number = torch.arange(first, first + count)
    images = torch.stack([number // 256, number % 256], 1).to(torch.uint8).view(-1, 1, 1, 2)
    return images, number.float()[:, None].expand(-1, 3)


@given(st.lists(st.integers(1, 700), max_size=6), st.none() | st.integers(1, 900))
def test_it_keeps_the_latest_in_order(batches: list[int], capacity: int | None) -> None:
    bank, total = Bank(capacity), 0
    for count in batches:
        images, targets = numbered(total, count)
        if capacity is not None and count > capacity:
            continue
        bank.add(images, targets)
        total += count
    kept = total if capacity is None else min(total, capacity)
    images, targets = bank.history()
    assert len(bank) == kept
    if kept:
        assert targets[:, 0].tolist() == list(range(total - kept, total))
        assert torch.equal(images, numbered(total - kept, kept)[0])


def test_images_are_fresh_once() -> None:
    bank = Bank()
    images, targets = numbered(0, 4)
    assert bank.fresh(images).tolist() == [True] * 4
    bank.add(images[:2], targets[:2])
    assert bank.fresh(images).tolist() == [False, False, True, True]
    twice = torch.cat([images[3:], images[3:]])
    assert bank.fresh(twice).tolist() == [True, False]


def test_what_was_overwritten_is_still_known() -> None:
    bank = Bank(capacity=2)
    first, targets = numbered(0, 2)
    bank.add(first, targets)
    bank.add(*numbered(2, 2))
    assert bank.fresh(first).tolist() == [False, False]


def test_draws_pair_images_with_their_answers() -> None:
    bank = Bank()
    bank.add(*numbered(0, 300))
    images, targets = bank.draw(1000, torch.Generator().manual_seed(0))
    number = images[:, 0, 0, 0].long() * 256 + images[:, 0, 0, 1].long()
    assert torch.equal(number.float(), targets[:, 0])
    assert len(set(number.tolist())) > 250


def test_an_image_that_counts_many_times_is_drawn_as_often() -> None:
    images = torch.arange(6 * 16, dtype=torch.uint8).view(6, 1, 4, 4)
    bank = Bank()
    bank.add(images[:2], torch.zeros(2, 1), times=10)
    bank.add(images[2:], torch.ones(4, 1))
    rng = torch.Generator().manual_seed(0)
    drawn = bank.draw(24_000, rng)[0][:, 0, 0, 0].long().div(16, rounding_mode="floor")
    share = drawn.bincount(minlength=6) / len(drawn)
    assert share.tolist() == pytest.approx([10 / 24] * 2 + [1 / 24] * 4, abs=0.01)
    again = Bank()
    again.restore(bank.state())
    one, other = (b.draw(9, torch.Generator().manual_seed(1))[0] for b in (bank, again))
    assert torch.equal(one, other)


@pytest.mark.parametrize("capacity", [None, 4])
def test_other_answers_take_the_place_of_those_that_are_kept(capacity: int | None) -> None:
    bank = Bank(capacity)
    for start in (0, 3):
        batch = torch.arange(start * 16, (start + 3) * 16, dtype=torch.uint8).view(3, 1, 4, 4)
        bank.add(batch, torch.zeros(3, 2))
    images, _ = bank.history()
    told = torch.arange(2 * len(images)).view(-1, 2).float()
    bank.retarget(told)
    assert torch.equal(bank.history()[1], told)
    assert torch.equal(bank.history()[0], images)


def test_a_bank_that_forgets_hands_on_what_it_has() -> None:
    small = Bank(capacity=10)
    images = torch.arange(16, dtype=torch.uint8).view(16, 1, 1, 1).expand(16, 1, 6, 6)
    for batch in images.split(4):
        small.add(batch, torch.zeros(len(batch), 4))
    assert small.added == 16
    assert small.newest(3)[:, 0, 0, 0].tolist() == [13, 14, 15]
    assert small.newest(99)[:, 0, 0, 0].tolist() == list(range(6, 16))
    assert len(small.newest(0)) == len(Bank().newest(0)) == 0


def test_by_question_a_draw_is_of_one_question_and_each_sample_once() -> None:
    bank, rng = Bank(by_question=True, held_back=0.2), torch.Generator().manual_seed(0)
    for first, count in ((0, 40), (40, 7), (47, 60)):
        bank.add(*numbered(first, count))
    edges, drawn = (0, 40, 47, 107), set()
    for _ in range(200):
        _, targets = bank.draw(25, rng)
        own = targets[:, 0].long().tolist()
        question = [max(at for at, edge in enumerate(edges) if edge <= number) for number in own]
        assert len(set(question)) == 1
        assert len(set(own)) == len(own) <= 25
        drawn |= set(own)
    apart = set(bank.held_back(1000)[1][:, 0].long().tolist())
    assert drawn | apart == set(range(107))
    assert not drawn & apart
    parts = bank.comparable(1000)
    assert sorted(int(at) for part in parts for at in part) == list(range(len(apart)))
    assert len(parts) == 3


def test_questions_outlive_a_checkpoint() -> None:
    bank = Bank(by_question=True)
    for first in (0, 10):
        bank.add(*numbered(first, 10))
    again = Bank(by_question=True)
    again.restore(bank.state())
    one, other = (of.draw(4, torch.Generator().manual_seed(3)) for of in (bank, again))
    assert torch.equal(one[1], other[1])


def test_wider_targets_widen_the_bank_with_zeros() -> None:
    bank, (images, targets) = Bank(by_question=True), numbered(0, 4)
    bank.add(images, targets)
    bank.add(numbered(4, 4)[0], torch.ones(4, 5))
    bank.add(*numbered(8, 4))
    kept = bank.history()[1]
    assert kept.shape == (12, 5)
    assert torch.equal(kept[:4, :3], targets)
    assert float(kept[:4, 3:].abs().max()) == float(kept[8:, 3:].abs().max()) == 0


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.integers(0, 99))
def test_questions_stay_whole(sizes: list[int], seed: int) -> None:
    bank, rng = Bank(held_back=0.5, seed=seed, whole_questions=True), torch.Generator()
    questions, held, total = [], [], 0
    for count in sizes:
        images, targets = numbered(total, count)
        bank.add(images, targets)
        questions.append(list(range(total, total + count)))
        keys = sample_keys(images[:1].numpy())
        held.append(bool(is_held_back(keys, 0.5, seed)[0]))
        total += count
    held[0] = False  # there is always something to draw
    again = Bank(held_back=0.5, seed=seed, whole_questions=True)
    again.restore(bank.state())
    for one in (bank, again):
        drawn = [one.draw_question(rng.manual_seed(n))[1][:, 0].int().tolist() for n in range(60)]
        assert all(each in questions for each in drawn)
        assert not any(held[questions.index(each)] for each in drawn)
        apart = one.held_back(10_000)[1][:, 0].int().tolist()
        kept = [question for question, aside in zip(questions, held, strict=True) if aside]
        assert apart == [number for question in kept for number in question]
        assert one.held_back_sizes(10_000) == [len(question) for question in kept]


def test_a_longer_question_is_drawn_oftener() -> None:
    bank, rng = Bank(whole_questions=True), torch.Generator().manual_seed(0)
    for first, count in ((0, 10), (10, 90)):
        bank.add(*numbered(first, count))
    lengths = [len(bank.draw_question(rng)[0]) for _ in range(400)]
    assert 330 < lengths.count(90) < 385
    assert Bank().held_back_sizes(10) == []


def test_targets_may_be_wider_than_before_and_narrower_than_the_widest() -> None:
    """A joiner's outputs are in all targets at once where somebody else is excluded then."""
    bank = Bank()
    bank.add(*numbered(0, 4))
    bank.retarget(torch.ones(4, 5))
    assert bank.targets.tolist() == [[1.0] * 5] * 4
    bank.add(*numbered(4, 2))
    bank.retarget(torch.full((6, 3), 2.0))
    assert bank.targets.tolist() == [[2.0] * 3 + [0.0] * 2] * 6
