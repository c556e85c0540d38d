"""The source scheduler: whose turn it is, for how many samples, and that none is asked twice."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.core.bank import Bank
from fedkd.core.interfaces import BaseSource
from fedkd.core.run_plan import Plan
from fedkd.core.schedules import Schedule, constant, ramp
from fedkd.core.source_types import Cost, Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.procedural import render
from fedkd.protocol import NamedPrior, Recipe
from fedkd.synthesis import SourceScheduler
from fedkd.synthesis.source_scheduler import ATTEMPTS

K = 3


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(first: int, count: int) -> Tensor:
    """(count, 1, 1, 2) uint8 images that hold their number."""
    number = torch.arange(first, first + count)
    return torch.stack([number // 256, number % 256], 1).to(torch.uint8).view(-1, 1, 1, 2)


@dataclass(eq=False)
class Counting(BaseSource):
    """Proposes images numbered from ``first`` on, or always those ``fixed``, or none."""

    name: str
    first: int = 0
    price: int = 1
    hurry: int = 0
    """Turns for which it is urgent."""
    fixed: Tensor | None = None
    silent: bool = False
    turns: int = 0
    progress: float = -1.0
    """That of its last turn."""

    @property
    def steps(self) -> int:
        return self.turns

    @property
    def facts(self) -> Mapping[str, Any]:
        return {f"first_{self.name}": self.first}

    @property
    def cost(self) -> Cost:
        return Cost(self.price)

    @property
    def urgent(self) -> bool:
        return self.turns < self.hurry

    def propose(self, turn: Turn) -> Proposal | None:
        self.turns += 1
        self.progress = turn.progress
        if self.silent:
            return None
        images = numbered(self.first, turn.count) if self.fixed is None else self.fixed
        self.first += turn.count
        return Proposal(images, self.name)


def scheduler(
    *sources: tuple[Counting, Schedule | None],
    plan: Plan | None = None,
    bank: Bank | None = None,
    told: list[str] | None = None,
) -> SourceScheduler:
    def record(kind: str, **facts: str) -> None:
        assert (kind, told is None) == ("warned", False)
        told.append(facts["text"])

    return SourceScheduler(
        {source.name: source for source, _ in sources},
        {source.name: share for source, share in sources},
        plan or Plan(1000, 4),
        bank or Bank(),
        rng(),
        record,
    )


def origins(of: SourceScheduler, asked: int, many: int) -> list[str]:
    found = []
    for _ in range(many):
        scheduled = of.next(asked)
        assert scheduled is not None
        found.append(scheduled.proposal.origin)
    return found


def test_turns_are_drawn_by_shares_which_are_normalised() -> None:
    a, b = Counting("a"), Counting("b", 30_000)
    found = origins(scheduler((a, constant(1.0)), (b, constant(3.0))), 0, 1000)
    assert found.count("b") == pytest.approx(750, abs=60)
    assert found.count("a") + found.count("b") == 1000


def test_shares_follow_the_questions_and_each_source_its_expected_share_of_them() -> None:
    late = ramp(0.0, 1.0, 0.5, 0.5)
    a, b = Counting("a"), Counting("b", 30_000)
    of = scheduler((a, lambda p: 1.0 - late(p)), (b, late))
    assert origins(of, 499, 20) == ["a"] * 20
    assert origins(of, 500, 20) == ["b"] * 20
    for asked, source, progress in ((0, a, 0.0), (250, a, 0.5), (500, b, 0.0), (750, b, 0.5)):
        scheduled = of.next(asked)
        assert scheduled is not None
        assert scheduled.source is source
        assert scheduled.progress == source.progress == pytest.approx(progress, abs=2e-3)


def test_who_is_urgent_comes_first_without_a_lot_and_without_a_share_has_no_other_turn() -> None:
    public, prior = Counting("public", hurry=2), Counting("prior", 30_000)
    of = scheduler((prior, constant(1.0)), (public, None))
    before = of.rng.get_state()
    assert origins(of, 0, 2) == ["public", "public"]
    assert torch.equal(of.rng.get_state(), before)
    assert origins(of, 8, 20) == ["prior"] * 20


def test_only_what_is_new_of_a_batch_is_asked_about_with_all_that_belongs_to_it() -> None:
    recipe = Recipe(NamedPrior("noise"), 5, 6)
    every = render(recipe, (1, 1, 2))

    class Rich(Counting):
        def propose(self, turn: Turn) -> Proposal | None:
            return Proposal(
                (every.float() / 255).requires_grad_(),
                self.name,
                recipe=recipe,
                class_targets=torch.arange(6) % K,
                labels=torch.arange(6),
                times=7,
            )

    bank = Bank()
    bank.add(every[1:3], torch.zeros(2, K))
    source = Rich("rich")
    scheduled = scheduler((source, constant(1.0)), plan=Plan(100, 6), bank=bank).next(0)
    assert scheduled is not None
    assert scheduled.source is source
    fresh = torch.tensor([0, 3, 4, 5])
    proposal = scheduled.proposal
    assert torch.equal(scheduled.images, every[fresh])
    assert torch.equal(proposal.images.detach(), every[fresh].float() / 255)
    assert proposal.images.requires_grad
    assert proposal.class_targets is not None
    assert proposal.labels is not None
    assert proposal.class_targets.tolist() == [0, 0, 1, 2]
    assert proposal.labels.tolist() == [0, 3, 4, 5]
    assert proposal.recipe is not None
    assert torch.equal(render(proposal.recipe, (1, 1, 2)), every[fresh])
    assert (proposal.origin, proposal.times) == ("rich", 7)


def test_an_image_that_is_twice_in_a_batch_is_asked_about_once() -> None:
    source = Counting("a", fixed=numbered(0, 2)[[0, 1, 0, 0]])
    scheduled = scheduler((source, constant(1.0))).next(0)
    assert scheduled is not None
    assert torch.equal(scheduled.images, numbered(0, 2))


def test_who_has_nothing_new_tries_again_and_then_gives_its_turn_to_the_larger_share() -> None:
    bank = Bank()
    bank.add(numbered(0, 4), torch.zeros(4, K))
    stale = Counting("stale", fixed=numbered(0, 4))
    small, large, none = (Counting(n, 100 * i) for i, n in enumerate(["small", "large", "no"], 1))
    of = scheduler(
        *((stale, constant(1e9)), (small, constant(1.0)), (large, constant(2.0))),
        *((none, constant(0.0)),),
        bank=bank,
    )
    assert origins(of, 0, 5) == ["large"] * 5
    assert stale.turns == 5 * ATTEMPTS
    assert (small.turns, none.turns) == (0, 0)


def test_who_proposes_nothing_is_not_asked_again_in_that_turn() -> None:
    silent, other = Counting("silent", silent=True), Counting("other")
    assert origins(scheduler((silent, constant(1e9)), (other, constant(1.0))), 0, 3) == [
        *["other"] * 3
    ]
    assert silent.turns == 3


def test_asking_ends_where_nobody_has_anything_new_and_a_run_that_asked_nothing_fails() -> None:
    bank = Bank()
    bank.add(numbered(0, 4), torch.zeros(4, K))
    a, b = Counting("a", fixed=numbered(0, 4)), Counting("b", fixed=numbered(1, 2))
    never = Counting("never", 100)  # has some, and no share
    shares = ((a, constant(1.0)), (b, constant(1.0)), (never, constant(0.0)))
    text, told = r"(a and b|b and a) drew only samples that were asked", list[str]()
    of = scheduler(*shares, bank=bank, told=told)
    assert of.next(4) is None
    assert re.match(f"no more is asked after 4 samples: {text}", told.pop())
    with pytest.raises(SettingsError, match=f"^{text}"):
        of.next(0)
    assert (never.turns, told) == (0, [])


def test_every_turn_is_of_as_many_samples_as_the_dearest_may_propose() -> None:
    cheap, dear = Counting("cheap"), Counting("dear", 10_000, price=3)
    of = scheduler((cheap, constant(1.0)), (dear, constant(1.0)), plan=Plan(100, 8))
    for asked, count in ((0, 8), (76, 8), (77, 7), (97, 1)):
        scheduled = of.next(asked)
        assert scheduled is not None
        assert len(scheduled.images) == count


def test_what_does_not_pay_for_the_dearest_goes_to_the_cheapest_without_a_lot() -> None:
    dear, cheap = Counting("dear", price=5), Counting("cheap", 10_000, price=2)
    of = scheduler((dear, constant(1e9)), (cheap, constant(1.0)), plan=Plan(100, 8))
    before = of.rng.get_state()
    scheduled = of.next(96)
    assert scheduled is not None
    assert (scheduled.proposal.origin, len(scheduled.images)) == ("cheap", 2)
    assert torch.equal(of.rng.get_state(), before)
    assert of.next(99) is None
    assert of.next(100) is None


def test_the_cheapest_asks_about_no_more_than_a_batch() -> None:
    dear, cheap = Counting("dear", price=200), Counting("cheap", 10_000)
    scheduled = scheduler((dear, constant(1.0)), (cheap, constant(1.0)), plan=Plan(1000, 64)).next(
        850
    )
    assert scheduled is not None
    assert (scheduled.proposal.origin, len(scheduled.images)) == ("cheap", 64)


def test_steps_and_facts_are_those_of_all_sources() -> None:
    of = scheduler((Counting("a"), constant(1.0)), (Counting("b", 500), None))
    origins(of, 0, 3)
    assert of.steps == 3
    assert of.facts == {"first_a": 12, "first_b": 500}
