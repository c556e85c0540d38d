"""Sources: priors chosen by what they excite, children of banked images, a generator's own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedkd.core.bank import Bank
from fedkd.models import Generator
from fedkd.procedural import Shape, UniformNoise
from fedkd.synthesis.sources import Evolved, Generated, PriorChoice, class_entropy, to_bytes

SHAPE, K = (1, 6, 6), 4


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def decisions(*classes: int) -> Tensor:
    """Logits (B, K) with these decisions."""
    return torch.eye(K)[list(classes)] * 5


EVERY, TWO, ONE = decisions(0, 1, 2, 3), decisions(0, 0, 1, 1), decisions(2, 2, 2, 2)


# --- entropy of decisions


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([[5, 0, 0, 0]], 0.0),
        ([[3, 3, 3, 3]], 1.0),
        ([[4, 4, 0, 0]], 0.5),
        ([[4, 0, 0, 0], [0, 4, 0, 0]], 0.5),
        ([[1, 0], [2, 0], [0, 1]], -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))),
    ],
)
def test_class_entropy_by_hand(counts: list[list[int]], expected: float) -> None:
    assert class_entropy([torch.tensor(c) for c in counts]) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12).filter(any), st.randoms())
def test_class_entropy_lies_between_0_and_1_whatever_the_names_of_classes(counts, random) -> None:
    value = class_entropy([torch.tensor(counts)])
    assert -1e-6 <= value <= 1 + 1e-6
    random.shuffle(counts)
    assert class_entropy([torch.tensor(counts)]) == pytest.approx(value, abs=1e-5)


# --- the choice of a prior


def choice(names: str = "abc", **settings: float) -> PriorChoice:
    return PriorChoice({name: UniformNoise() for name in names}, SHAPE, **settings)


def drawn_after(source: PriorChoice, many: int = 300) -> dict[str, int]:
    """How often each prior is drawn from."""
    generator = rng()
    origins = [source.draw(1, generator).origin for _ in range(many)]
    return {name: origins.count(name) for name in source.priors}


def test_every_prior_is_tried_once_before_any_is_preferred() -> None:
    source, tried = choice("abcd"), []
    for target in (EVERY, ONE, TWO, ONE):
        drawn = source.draw(5, rng())
        assert drawn.images.shape == (5, *SHAPE)
        tried.append(drawn.origin)
        source.learn(drawn.origin, target)
    assert tried == ["a", "b", "c", "d"]
    assert source.class_entropy == pytest.approx({"a": 1.0, "b": 0.0, "c": 0.5, "d": 0.0})


def test_priors_are_drawn_by_the_softmax_of_their_entropy() -> None:
    source = choice(sharpness=0.5)
    for name, target in zip("abc", (EVERY, TWO, ONE), strict=True):
        source.learn(name, target)
    weight = torch.tensor([1.0, 0.5, 0.0]).div(0.5).softmax(0)
    often = drawn_after(source, 2000)
    for name, w in zip("abc", weight.tolist(), strict=True):
        assert often[name] / 2000 == pytest.approx(w, abs=5 * math.sqrt(w * (1 - w) / 2000))


def test_priors_that_excite_alike_are_drawn_alike() -> None:
    source = choice()
    for name in "abc":
        source.learn(name, TWO)
    assert min(drawn_after(source).values()) > 60


def test_sharper_is_more_faithful_to_the_entropy() -> None:
    sharp, blunt = choice("ab", sharpness=0.05), choice("ab", sharpness=5.0)
    for source in (sharp, blunt):
        source.learn("a", EVERY)
        source.learn("b", TWO)
    assert drawn_after(sharp)["b"] == 0
    assert drawn_after(blunt)["b"] > 100


def test_only_the_last_batches_are_remembered() -> None:
    source = choice("a", memory=2)
    for target in (ONE, ONE, EVERY, EVERY):
        source.learn("a", target)
    assert source.class_entropy["a"] == pytest.approx(1.0)


def test_a_prior_that_tires_is_left_for_another() -> None:
    source = choice("ab", memory=3)
    source.learn("a", EVERY)
    source.learn("b", TWO)
    before = drawn_after(source)
    for _ in range(3):
        source.learn("a", ONE)
    after = drawn_after(source)
    assert before["a"] > 250
    assert after["b"] > 250


def test_what_others_drew_teaches_nothing_about_priors() -> None:
    source = choice()
    source.learn("generator", EVERY)
    assert source.class_entropy == {}


# --- evolution


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


def evolved(bank: Bank, hardest: set[int], noise: float, value: int = 0) -> Evolved:
    """Evolution with a student that fails at these images only."""

    def difficulty(images: Tensor, targets: Tensor) -> Tensor:
        return torch.tensor([float(int(t) in hardest) for t in targets[:, 0]])

    prior = PriorChoice({"flat": Flat(value)}, SHAPE)
    prior.learn("flat", ONE)
    return Evolved(bank, prior, difficulty, noise)


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
    drawn = evolved(bank, set(), noise=0.0).draw(5, rng())
    assert drawn.origin == "evolution"
    assert (drawn.images.dtype, drawn.images.shape) == (torch.uint8, (5, *SHAPE))
    strangers = UniformNoise().draw(20, SHAPE, rng(8)).float()
    for child in drawn.images.float():
        assert misfit(child, bank.images.float()) <= 1.0  # rounding
        assert misfit(child, strangers) > 20


def test_parents_are_those_that_the_student_fails_at() -> None:
    hard = set(range(30))
    source = evolved(banked(40), hard, noise=0.0)
    parents = source.bank.images[:30].float()
    drawn = source.draw(8, rng())
    assert max(misfit(child.float(), parents) for child in drawn.images) <= 1.0
    easy = source.bank.images[30:].float()
    assert min(misfit(child.float(), easy) for child in drawn.images) > 20


def test_new_material_has_the_share_that_was_asked_for() -> None:
    plain = evolved(banked(40), set(), noise=0.0).draw(8, rng()).images.float()
    spiced = evolved(banked(40), set(), noise=0.3, value=200).draw(8, rng()).images.float()
    assert float((spiced - (0.7 * plain + 60)).abs().max()) <= 1.0
    new = evolved(banked(40), set(), noise=1.0, value=200).draw(8, rng()).images
    assert bool((new == 200).all())


def test_without_parents_evolution_is_the_prior_which_hears_what_was_answered() -> None:
    source = evolved(banked(31), set(), noise=0.3, value=9)
    drawn = source.draw(8, rng())
    assert drawn.origin == "flat"
    assert bool((drawn.images == 9).all())
    for _ in range(8):
        source.learn(drawn.origin, TWO)
    assert source.prior.class_entropy == pytest.approx({"flat": 0.5})
    source.learn("evolution", EVERY)
    assert source.prior.class_entropy == pytest.approx({"flat": 0.5})


def test_evolution_too_tries_every_prior_first() -> None:
    priors = {name: Flat(value) for value, name in enumerate("abc")}
    source = Evolved(banked(40), PriorChoice(priors, SHAPE), lambda images, targets: targets[:, 0])
    origins = []
    for _ in range(5):
        drawn = source.draw(4, rng())
        source.learn(drawn.origin, TWO)
        origins.append(drawn.origin)
    assert origins == ["a", "b", "c", "evolution", "evolution"]


# --- a generator


def test_a_generator_draws_with_the_graph_through_which_it_learns() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        source = Generated(Generator(8, SHAPE))
    drawn = source.draw(5, rng(1))
    assert drawn.images.shape == (5, *SHAPE)
    assert drawn.images.requires_grad
    assert 0 <= float(drawn.images.detach().min()) <= float(drawn.images.detach().max()) <= 1
    assert torch.equal(drawn.images, source.draw(5, rng(1)).images)
    assert not torch.equal(drawn.images, source.draw(5, rng(2)).images)
    drawn.images.sum().backward()
    assert all(p.grad is not None for p in source.generator.parameters())


@given(st.sampled_from([1, 3]), st.integers(4, 40), st.integers(4, 40), st.sampled_from([1, 2, 5]))
def test_a_generator_fits_any_shape_from_4x4_up_and_any_batch(
    channels: int, height: int, width: int, count: int
) -> None:
    source = Generated(Generator(4, (channels, height, width), width=2))
    assert source.draw(count, rng()).images.shape == (count, channels, height, width)


def test_images_are_asked_about_as_bytes() -> None:
    unit = torch.tensor([0.0, 0.2, 0.5, 1.0]).view(1, 1, 2, 2).requires_grad_()
    asked = to_bytes(unit)
    assert asked.flatten().tolist() == [0, 51, 128, 255]
    assert (asked.dtype, asked.requires_grad) == (torch.uint8, False)
    assert to_bytes(asked) is asked
