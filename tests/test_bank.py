"""The bank keeps everything, in order, and knows what was asked before."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.bank import Bank


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
