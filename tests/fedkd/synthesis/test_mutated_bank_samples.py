"""Evolution of the bank: children of the samples on which the student is worst."""

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.source_types import Proposal, Turn
from fedkd.procedural import Shape, UniformNoise
from fedkd.synthesis import Evolution, ProceduralPriors
from fedkd.synthesis.mutated_bank_samples import EvolvedBank
from tests.support.contexts import answered_with, context_of

SHAPE, K = (1, 6, 6), 4


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decisions(*classes: int) -> Tensor:
    """Logits (B, K) with these decisions."""
    return torch.eye(K)[list(classes)] * 5


EVERY, TWO, ONE = decisions(0, 1, 2, 3), decisions(0, 0, 1, 1), decisions(2, 2, 2, 2)
STUDENT = nn.Sequential(nn.Flatten(), nn.Linear(36, K)).requires_grad_(False)


def propose(source: EvolvedBank, count: int) -> Proposal:
    proposal = source.propose(Turn(count, rng(), 0.0))
    assert proposal is not None
    return proposal


class Flat:
    """A prior of one value."""

    def __init__(self, value: int) -> None:
        self.value = value

    def draw(self, count: int, shape: Shape, rng: torch.Generator) -> Tensor:
        return torch.full((count, *shape), self.value, dtype=torch.uint8)


def banked(count: int) -> Bank:
    """Snow; the target's first number says which image it is."""
    bank = Bank()
    targets = torch.zeros(count, K)
    targets[:, 0] = torch.arange(float(count))
    bank.add(UniformNoise().draw(count, SHAPE, rng(7)), targets)
    return bank


def evolved(
    bank: Bank, hardest: set[int], noise: float, value: int = 0, names: str = "f"
) -> EvolvedBank:
    """Evolution with a student that fails at these images only; its first prior was tried."""

    def difficulty(logits: Tensor, targets: Tensor) -> Tensor:
        parents = bank.images[targets[:, 0].long()].float() / 255
        torch.testing.assert_close(logits, STUDENT(parents))  # of the very images
        return torch.tensor([float(int(t) in hardest) for t in targets[:, 0]])

    priors = {name: Flat(value + index) for index, name in enumerate(names)}
    context = context_of(STUDENT, SHAPE, K, bank=bank, loss=difficulty, priors=priors)
    spec = ProceduralPriors()
    source = context.part(Evolution(spec, noise))
    assert source.prior is context.part(spec)
    source.prior.hear("f", ONE)
    return source


def misfit(child: Tensor, parents: Tensor) -> float:
    """Largest deviation of a pixel from the nearest mix of two parents or shift of one."""
    fits = [
        (child - mother.roll((dy, dx), (1, 2))).abs().max()
        for mother in parents
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    for mother in parents:
        for father in parents:
            apart = (mother - father).flatten()
            if bool(apart.any()):
                share = float((child - father).flatten() @ apart / apart.square().sum())
                mix = share * mother + (1 - share) * father
                fits.append((child - mix).abs().max() if 0 <= share <= 1 else mix.new_tensor(255.0))
    return float(torch.stack(fits).min())


def test_children_are_mixes_of_two_parents_or_shifts_of_one() -> None:
    bank = banked(20)
    drawn = propose(evolved(bank, set(), noise=0.0), 5)
    assert drawn.origin == "evolution"
    assert (drawn.images.dtype, drawn.images.shape) == (torch.uint8, (5, *SHAPE))
    strangers = UniformNoise().draw(20, SHAPE, rng(8)).float()
    for child in drawn.images.float():
        assert misfit(child, bank.images.float()) <= 1.0  # rounding
        assert misfit(child, strangers) > 20


def test_parents_are_those_that_the_student_fails_at() -> None:
    hard = set(range(30))
    bank = banked(40)
    parents = bank.images[:30].float()
    drawn = propose(evolved(bank, hard, noise=0.0), 8)
    assert max(misfit(child.float(), parents) for child in drawn.images) <= 1.0
    easy = bank.images[30:].float()
    assert min(misfit(child.float(), easy) for child in drawn.images) > 20


def test_new_material_has_the_share_that_was_asked_for() -> None:
    plain, spiced, new = (
        propose(evolved(banked(40), set(), noise, value), 8).images.float()
        for noise, value in ((0.0, 0), (0.3, 200), (1.0, 200))
    )
    assert float((spiced - (0.7 * plain + 60)).abs().max()) <= 1.0
    assert bool((new == 200).all())


def test_without_parents_evolution_is_the_prior_which_hears_what_was_answered() -> None:
    source = evolved(banked(31), set(), noise=0.3, value=9)
    drawn = propose(source, 8)
    assert drawn.origin == "f"
    assert bool((drawn.images == 9).all())
    for _ in range(8):
        source.learn(answered_with(drawn, TWO))
    assert source.prior.class_entropy == pytest.approx({"f": 0.5})
    child = propose(evolved(banked(40), set(), noise=0.3), 4)
    assert child.origin == "evolution"
    source.learn(answered_with(child, EVERY))
    assert source.prior.class_entropy == pytest.approx({"f": 0.5})


def test_evolution_too_tries_every_prior_first() -> None:
    source = evolved(banked(40), set(), noise=0.3, names="fgh")
    origins = []
    for _ in range(4):
        drawn = propose(source, 4)
        source.learn(answered_with(drawn, TWO))
        origins.append(drawn.origin)
    assert origins == ["g", "h", "evolution", "evolution"]


def test_a_bank_that_draws_one_question_has_too_few_parents() -> None:
    bank = Bank(by_question=True)
    for seed in range(8):
        images = UniformNoise().draw(8, SHAPE, rng(seed))
        bank.add(images, torch.zeros(8, K))
    proposal = propose(evolved(bank, set(), 0.0, value=9), 8)
    assert set(proposal.images.unique().tolist()) == {9}, "the prior's own"
