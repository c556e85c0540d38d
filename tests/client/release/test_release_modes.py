"""Under each mode what leaves is what the policy names, with its noise, charged exactly once."""

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from fedkd.client.config.owner_config import OwnerConfig
from fedkd.client.institution import Institution, simulated_policy
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.monitoring.terminal_formatting import format_card, format_spending
from fedkd.client.release.gate import ReleaseGate
from fedkd.client.release.mode_table import build_release_mode
from fedkd.client.release.noiseless import (
    ONE_HOT_PROBABILITY,
    one_hot_logits,
    round_probabilities,
    top_k_logits,
)
from fedkd.client.vault.pate_ensemble import PateEnsemble
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.client.vault.training.pate import assign_voters, train_pate_ensemble
from fedkd.client.vault.training.settings import DpSgdSettings, SupervisedSettings
from fedkd.client.vault.vault import Vault
from fedkd.client.vault.vault_settings import Assets
from fedkd.data.datasets import open_data
from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment, validate_settings
from fedkd.models import Teacher
from fedkd.privacy import (
    MICRO_PER_RHO,
    MODES,
    Budget,
    ClippedGaussian,
    NoisyArgmax,
    Policy,
    RangedGaussian,
    Spending,
    epsilon_of_rho,
    min_deviation,
    squared_cost,
)
from fedkd.privacy.mechanisms import GRID_STEPS
from fedkd.protocol import (
    Ask,
    Card,
    Number,
    PullBack,
    Reason,
    Refusal,
    Reply,
    Signal,
    as_float,
    rounded,
)

LOGITS = Signal.LOGITS
ONE_IN_A_MILLION = 1e-6
K, SHAPE = 10, (1, 8, 8)
BUDGET = Budget(8.0)
BASE = Assets(index=1, count=20, training=SupervisedSettings(epochs=1))
PRIVATE = DpSgdSettings(8.0, epochs=1, sampling_rate=0.2, accountant="rdp")
ASSETS = {
    "none": BASE,
    "dp-teacher": replace(BASE, model="scattering", dp_training=PRIVATE),
    "pate": replace(BASE, model="sklearn:LogisticRegression", voters=5),
    "local-dp": BASE,
}


@pytest.fixture(scope="module")
def vaults() -> dict[str, Vault]:
    return {mode: TrainedVault(assets) for mode, assets in ASSETS.items()}


@dataclass
class Constant:
    """A teacher that says the same of every image, or fails."""

    said: Tensor
    fails: bool = False
    signals = frozenset({LOGITS})
    differentiable = False

    @property
    def classes(self) -> int:
        return len(self.said)

    def ask(self, images: Tensor, signals: frozenset[Signal]) -> dict[Signal, Tensor]:
        if self.fails:
            raise RuntimeError("a private reason")
        return {LOGITS: self.said.expand(len(images), -1).clone()}

    def pull_back(self, images: Tensor, cotangents: Mapping[Signal, Tensor]) -> Tensor:
        return images.float()


def gate(policy: Policy, teacher: Teacher, ledger: Ledger | None = None) -> ReleaseGate:
    released = build_release_mode(policy, teacher, None)
    card = Card("north", teacher.classes, (1, 1, 4), released.signals)
    return ReleaseGate(
        policy, released, card, ledger or Ledger(None), b"", "" if ledger is None else "d"
    )


def charges(ledger: Ledger) -> dict[str, int]:
    """Micro-rho by data set."""
    each = ledger.dataset_accounts.all_spending().items()
    return {name: spent.micro_rho for name, spent in each if spent.micro_rho}


def noisy(mode: str, noise: float | Fraction = 10, **words: Any) -> Policy:
    words = {"budget": Budget(1e5), "largest_batch": 10_000, **words}
    return Policy(mode=mode, noise=Fraction(noise), **words)


def distinct(count: int, start: int = 0) -> Tensor:
    numbers = torch.arange(start, start + count)
    return (
        (numbers[:, None] >> torch.tensor([0, 8, 16, 24]) & 255).to(torch.uint8).view(-1, 1, 1, 4)
    )


def logits(said: Reply | Refusal) -> Tensor:
    assert isinstance(said, Reply), said
    return said.signals[LOGITS]


# --- whatever may come

few = torch.linspace(0, 255, 6 * 64).to(torch.uint8).view(6, *SHAPE)
plain_words = st.sampled_from([{}, {"labels": True}, {"top_k": 2}, {"rounding": 1}])
asks = st.builds(
    lambda picked, exact, floats: Ask(
        as_float(few[picked]) if floats else few[picked], frozenset({LOGITS}), exact
    ),
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
)
others = st.sampled_from(
    [
        Ask(few[:2], frozenset({LOGITS, Signal.FEATURES})),
        Ask(few[:2], frozenset({Signal.BN_GAP})),
        PullBack(few[:1], {LOGITS: torch.ones(1, K)}),
        Ask(few[:, :, :4]),
        Ask(few.double()),
    ]
)


@pytest.mark.parametrize("mode", MODES)
@given(plain_words, st.lists(asks | asks | others, max_size=8), st.integers(0, 7))
@settings(max_examples=20, deadline=None)
def test_what_leaves_is_what_the_policy_names_and_is_charged_once(
    vaults: dict[str, Vault], mode: str, words: dict[str, Any], asked: list[Any], paid: int
) -> None:
    priced = MODES[mode].charged
    if priced:
        # A budget for so many images and a little more, at noise that costs what it costs.
        words = {"budget": BUDGET, "noise": Fraction(3 if mode == "pate" else 30)}
        each = build_release_mode(Policy(mode=mode, **words), vaults[mode].teacher, None).cost
        rho = paid * each + each // 2
        words["budget"] = Budget(epsilon_of_rho(max(rho, each), 1e-5) * (1 + 1e-9))
    policy = Policy(mode=mode, **words)
    with closing(Ledger(None)) as ledger:
        north = Institution("north", vaults[mode], policy, ledger)
        known: dict[bytes, Tensor] = {}
        for request in asked:
            before = sum(charges(ledger).values())
            said = north.answer(request)
            if isinstance(said, Refusal):
                assert_refused(request, said, policy)
                assert sum(charges(ledger).values()) == before
                continue
            assert_names_nothing_else(request, said, policy, vaults[mode].teacher)
            if priced:
                for pixels, told in zip(
                    as_float(request.images), logits(said).float(), strict=True
                ):
                    once = known.setdefault(pixels.numpy().tobytes(), told)
                    assert torch.allclose(once, told, rtol=1e-3), "the same image, other noise"
                assert sum(charges(ledger).values()) == each * len(known)
        assert len(known) <= max(paid, 1)
        assert priced or not charges(ledger)
        ledger.verify()


def assert_refused(request: Ask | PullBack, said: Refusal, policy: Policy) -> None:
    fits = request.images.shape[1:] == SHAPE and request.images.dtype != torch.float64
    if not fits:
        assert said.reason is Reason.MALFORMED
    elif isinstance(request, PullBack) or request.signals != {LOGITS}:
        assert said.reason is Reason.FORBIDDEN
    else:
        assert said.reason is Reason.SPENT
        assert policy.budget is not None
        assert f"of {policy.budget.micro_rho} are left" in said.text


def assert_names_nothing_else(request: Any, said: Reply, policy: Policy, teacher: Teacher) -> None:
    assert request.signals == said.signals.keys() == {LOGITS}
    assert said.gradient is None
    told = logits(said)
    assert (told.shape, told.dtype) == (
        (len(request.images), K),
        torch.float32 if request.exact else torch.float16,
    )
    assert bool(told.isfinite().all())
    exact = teacher.ask(request.images, frozenset({LOGITS}))[LOGITS]
    if policy.mode == "pate" or policy.labels:
        assert bool(((told == 0).sum(1) == K - 1).all())
        assert torch.allclose(
            told.float().softmax(1).amax(1), torch.tensor(ONE_HOT_PROBABILITY), atol=2e-3
        )
        assert torch.equal(told.float(), one_hot_logits(told.argmax(1), K)), (
            "no rounding changes a label"
        )
    if policy.labels:
        assert torch.equal(told.argmax(1), exact.argmax(1))
    elif policy.top_k:
        assert all(len(set(row.tolist())) <= policy.top_k + 1 for row in told)
    elif policy.rounding:
        tenths = told.float().exp() * 10
        # Half a step of a grid, as a row of it spans 3 at most: 1/128 of what is told.
        off = 0.002 if request.exact else tenths / 127
        assert bool(((tenths - tenths.round()).abs().lt(off) | tenths.sub(0.5).abs().lt(off)).all())
    elif policy.mode == "local-dp" and request.exact:
        steps = told.double() * GRID_STEPS / float(policy.clipping)
        assert bool(((steps - steps.round()).abs() < 1e-2).all())
    elif policy.mode in ("none", "dp-teacher"):
        assert torch.equal(told, rounded(exact, LOGITS, request.exact))


# --- noise, as it leaves the gate


def labels_of_noise(deviation: float) -> tuple[int, int]:
    """How often 14 voters for class 0 are outvoted by noise alone."""
    ensemble = PateEnsemble([Constant(torch.tensor([1.0, 0.0]))] * 14, 2)
    said = logits(gate(noisy("pate", deviation), ensemble).answer(Ask(distinct(3000))))
    return int(said.argmax(1).sum()), len(said)


def elected_as_by(deviation: float, counted: tuple[int, int]) -> bool:
    chance = stats.norm.sf(14.5 / (deviation * math.sqrt(2)))
    return bool(stats.binomtest(*counted, chance).pvalue > ONE_IN_A_MILLION)


def test_an_election_has_the_noise_that_is_charged() -> None:
    drawn = labels_of_noise(10)
    assert elected_as_by(10, drawn)
    for wrong in (2 / 3, 3 / 2):
        assert not elected_as_by(10 * wrong, drawn)
        assert not elected_as_by(10, labels_of_noise(10 * wrong))


def noise_of_logits(deviation: float) -> Tensor:
    """What is told of a teacher, less what it says."""
    teacher = Constant(torch.tensor([3.0, 0.0, -3.0]))
    said = logits(
        gate(noisy("local-dp", deviation), teacher).answer(Ask(distinct(1000), exact=True))
    )
    return said - teacher.said


def normal(drawn: Tensor, deviation: float) -> bool:
    tested = stats.kstest(drawn.double().flatten().numpy(), "norm", (0, deviation))
    return bool(tested.pvalue > ONE_IN_A_MILLION)


def test_logits_have_the_noise_that_is_charged() -> None:
    drawn = noise_of_logits(25)
    assert normal(drawn, 25)
    for wrong in (2 / 3, 3 / 2):
        assert not normal(drawn, 25 * wrong)
        assert not normal(noise_of_logits(25 * wrong), 25)


@pytest.mark.parametrize("mode", ["pate", "local-dp"])
def test_noise_is_charged_by_its_scale_and_never_drawn_twice(mode: str) -> None:
    voters: Teacher = PateEnsemble([Constant(torch.zeros(3))] * 2, 3)
    teacher = voters if mode == "pate" else Constant(torch.zeros(3))
    squared = 2 if mode == "pate" else 16**2
    with closing(Ledger(None)) as ledger:
        entry = gate(noisy(mode, 50), teacher, ledger)
        first = logits(entry.answer(Ask(distinct(40), exact=True)))
        each = math.ceil(Fraction(squared, 2 * 50**2) * MICRO_PER_RHO)
        assert charges(ledger) == {"d": 40 * each}
        mixed = logits(entry.answer(Ask(torch.cat([distinct(45), distinct(5)]), exact=True)))
        assert torch.equal(mixed[:40], first), "an image that comes again has its old answer"
        assert torch.equal(mixed[45:], first[:5])
        assert charges(ledger) == {"d": 45 * each}
        other = gate(noisy(mode, 51), teacher, ledger)
        assert not torch.equal(logits(other.answer(Ask(distinct(40), exact=True))), first)
    alone = [gate(noisy(mode, 50), teacher) for _ in range(2)]
    torch.manual_seed(0)
    one = logits(alone[0].answer(Ask(distinct(40))))
    torch.manual_seed(0)
    assert not torch.equal(one, logits(alone[1].answer(Ask(distinct(40))))), "it has a seed"


@pytest.mark.parametrize("mode", ["local-dp", "pate"])
def test_whether_an_answer_is_repeated_does_not_tell_whether_the_samples_are_those_of_before(
    mode: str, vaults: dict[str, Vault]
) -> None:
    """Fresh noise after a new training told it with certainty, which no epsilon allows."""
    more = replace(ASSETS[mode], seed=9)
    policy, question = noisy(mode, 2), Ask(torch.rand(30, *SHAPE))
    with closing(Ledger(None)) as ledger:
        before = Institution("north", vaults[mode], policy, ledger)
        after = Institution("north", TrainedVault(more), policy, ledger)
        assert before.teacher_fingerprint != after.teacher_fingerprint
        first, spent = logits(before.answer(question)), charges(ledger)
        assert torch.equal(logits(after.answer(question)), first)
        assert charges(ledger) == spent
        south = Institution("south", vaults[mode], policy, ledger)
        assert not torch.equal(logits(south.answer(question)), first), "another one's answers"


def test_a_teacher_that_fails_is_not_told_from_one_that_says_nothing() -> None:
    for broken in (Constant(torch.zeros(3), fails=True), Constant(torch.full((3,), math.nan))):
        said = logits(gate(noisy("local-dp", 25), broken).answer(Ask(distinct(1000), exact=True)))
        assert normal(said, 25)
        ensemble = PateEnsemble([broken, Constant(torch.tensor([0.0, 9.0, 0.0])), None], 3)
        assert ensemble.votes(distinct(2)).tolist() == [[0, 1, 0]] * 2


# --- what a neighbour moves


def ensemble_of(images: Tensor, labels: Tensor, key: bytes) -> PateEnsemble:
    folder = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedkd.client.vault.training.pate.load_or_create_key", lambda _: key)
        return train_pate_ensemble(
            "sklearn:LogisticRegression", images, labels, K, SupervisedSettings(), 12, 0, folder
        )


def test_one_image_less_moves_one_vote_and_another_image_two() -> None:
    data, key = open_data("digits"), b"k" * 32
    images, labels = data.train_images[:240], data.train_labels[:240]
    asked = torch.randint(0, 256, (200, *SHAPE), dtype=torch.uint8)
    asked = torch.cat([asked, data.test_images[:200]])
    votes = ensemble_of(images, labels, key).votes(asked)
    moved = replaced = 0
    for index in (0, 57, 239):
        rest = torch.arange(240) != index
        fewer = ensemble_of(images[rest], labels[rest], key).votes(asked)
        moved = max(moved, int((fewer - votes).square().sum(1).max()))
        swapped, relabelled = images.clone(), labels.clone()
        swapped[index], relabelled[index] = data.train_images[500 + index], 3
        other = ensemble_of(swapped, relabelled, key).votes(asked)
        replaced = max(replaced, int((other - votes).square().sum(1).max()))
    assert 0 < moved <= NoisyArgmax.squared_sensitivity
    assert 0 < replaced <= NoisyArgmax.replacing
    assert replaced > 2, "else this would not tell one from the other"


def test_a_share_depends_on_the_image_alone() -> None:
    images = distinct(500)
    dealt = assign_voters(images, 20, b"k" * 32)
    turned = torch.randperm(500)
    assert torch.equal(assign_voters(images[turned], 20, b"k" * 32), dealt[turned])
    assert torch.equal(assign_voters(images[1:], 20, b"k" * 32), dealt[1:])
    assert not torch.equal(assign_voters(images, 20, b"j" * 32), dealt)
    assert int(torch.bincount(dealt, minlength=20).min()) > 5


def test_voters_are_cached_and_one_image_less_trains_one_anew(tmp_path: Path) -> None:
    data = open_data("digits")
    images, labels = data.train_images[:60], data.train_labels[:60]
    taught: list[bool] = []

    def train(count: int) -> PateEnsemble:
        told = (
            "mlp",
            images[:count],
            labels[:count],
            K,
            SupervisedSettings(epochs=1),
            4,
            0,
            tmp_path,
        )
        return train_pate_ensemble(*told, progress=lambda done, total: taught.append(done <= total))

    first = train(60).votes(few)
    notes = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("teacher.json")}
    assert torch.equal(train(60).votes(few), first)
    train(59)
    changed = [p for p, at in notes.items() if p.stat().st_mtime_ns != at]
    assert (len(notes), len(changed), len(taught)) == (4, 1, 12)


# --- mechanisms


@given(
    st.lists(st.lists(st.floats(width=32), min_size=4, max_size=4), min_size=1, max_size=5),
    st.fractions(Fraction(1, 8), 100, max_denominator=64),
)
@settings(max_examples=100, deadline=None)
def test_no_answer_is_clipped_beyond_half_its_diameter(rows: Any, clipping: Fraction) -> None:
    mechanism = ClippedGaussian(clipping, Fraction(1))
    steps = mechanism.clipped(torch.tensor(rows))
    assert steps.dtype == torch.int64
    assert int(steps.square().sum(1).max()) <= GRID_STEPS**2
    assert mechanism.squared_sensitivity == (2 * GRID_STEPS * mechanism.step) ** 2
    assert mechanism.cost == squared_cost(4 * clipping**2, 1)


@given(st.integers(1, 10**8), st.sampled_from([Fraction(2), Fraction(256), Fraction(1, 3)]))
def test_the_least_noise_is_the_least(micro_rho: int, squared: Fraction) -> None:
    found = min_deviation(squared, micro_rho)
    assert squared_cost(squared, found) <= micro_rho
    if (less := found - Fraction(1, 64)) > 0:
        assert squared_cost(squared, less) > micro_rho


def test_less_is_told_of_an_answer() -> None:
    said = torch.tensor([[3.0, 1.0, 0.0, -1.0]])
    p = said.softmax(1)
    assert torch.allclose(top_k_logits(said, 2).exp()[0, :2], p[0, :2])
    assert torch.allclose(top_k_logits(said, 2).exp()[0, 2:], p[0, 2:].mean().expand(2))
    assert torch.allclose(top_k_logits(said, 4), said.log_softmax(1))
    assert torch.allclose(
        round_probabilities(said, 1).exp(), torch.tensor([[0.8, 0.1, 0.05, 0.05]])
    )


# --- budgets


def test_a_budget_is_of_the_images_and_neither_of_a_teacher_nor_of_one_image(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.sqlite"
    policy = Policy(mode="local-dp", budget=BUDGET, samples=4)
    images = few[:4].float() / 255
    with closing(Ledger(path)) as ledger:
        for step, seed in enumerate((0, 1)):
            vault = TrainedVault(replace(BASE, seed=seed))
            north = Institution("north", vault, replace(policy, samples=8, noise=None), ledger)
            assert isinstance(north.answer(Ask(images * (1 - step / 2))), Reply)
        assert len(charges(ledger)) == 1
        assert sum(charges(ledger).values()) <= BUDGET.micro_rho
    with closing(Ledger(path)) as ledger:
        anew = TrainedVault(replace(BASE, seed=2))
        said = Institution("north", anew, replace(policy, samples=16), ledger).answer(Ask(few[4:]))
        assert isinstance(said, Refusal)
        assert said.reason is Reason.SPENT
        with pytest.raises(SettingsError, match="are spent on these images"):
            Institution("north", anew, replace(policy, budget=Budget(1.0)), ledger)


def test_data_that_share_an_image_share_a_budget() -> None:
    with closing(Ledger(None)) as ledger:
        names = [
            ledger.dataset_accounts.register(of)
            for of in ([b"a", b"b"], [b"b", b"a"], [b"b", b"c"], [b"d"])
        ]
        assert names[0] == names[1], "their order does not matter"
        assert len(set(names)) == 3
        one, kin, stranger = names[0], names[2], names[3]
        entry = replace(noisy("pate"), budget=Budget(8.0))
        for number, name in enumerate((one, kin, kin, stranger)):
            ensemble = PateEnsemble([Constant(torch.zeros(3))], 3)
            card = Card("north", 3, (1, 1, 4), frozenset({LOGITS}))
            own = ReleaseGate(
                entry, build_release_mode(entry, ensemble, None), card, ledger, b"", name
            )
            assert isinstance(own.answer(Ask(distinct(1, number))), Reply)
        each = NoisyArgmax(Fraction(10)).cost
        assert [ledger.dataset_accounts.spending(n).micro_rho for n in (one, kin, stranger)] == [
            3 * each,
            3 * each,
            each,
        ]
        assert ledger.dataset_accounts.register([b"a", b"b"]) == one


def test_who_fell_between_charge_and_answer_pays_again() -> None:
    teacher = Constant(torch.zeros(3))
    with closing(Ledger(None)) as ledger:
        entry = gate(noisy("local-dp", 50), teacher, ledger)
        noisy_answers: Callable[[Tensor], Tensor] = entry._release.noisy_answers
        object.__setattr__(entry._release, "noisy_answers", lambda images: 1 / 0)
        assert isinstance(entry.answer(Ask(distinct(3))), Refusal)
        spent = sum(charges(ledger).values())
        object.__setattr__(entry._release, "noisy_answers", noisy_answers)
        assert isinstance(entry.answer(Ask(distinct(3))), Reply)
        assert sum(charges(ledger).values()) == 2 * spent > 0
        assert [e.decision for e in ledger.entries()] == ["answered", "refused", "repeat"]
        assert ledger.totals.samples == 3
        ledger.verify()


def test_a_card_states_the_whole_budget_spent_or_not(vaults: dict[str, Vault]) -> None:
    for mode, unit in (("pate", "one training image"), ("local-dp", "the whole data set")):
        policy = Policy(mode=mode, budget=BUDGET, samples=100)
        north = Institution("north", vaults[mode], policy)
        told = north.card.guarantee
        assert told is not None
        assert 7.99 < told.epsilon <= 8
        assert (told.delta, told.unit, told.mechanism) == (1e-5, unit, mode)
        assert 100 <= told.steps < 110
        assert isinstance(north.answer(Ask(few)), Reply)
        assert Institution("north", vaults[mode], policy).card.guarantee == told
        assert not north.card.pull_back
        assert north.card.signals == {LOGITS}
    assert Institution("north", vaults["none"], Policy()).card.guarantee is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"mode": "pate"}, "needs a policy.budget"),
        ({"mode": "none", "budget": BUDGET}, "has no policy.budget"),
        ({"mode": "none", "noise": Fraction(1)}, "adds none"),
        ({"mode": "local-dp", "budget": BUDGET}, "policy.noise: say it, or policy.samples"),
        ({"mode": "pate", "budget": BUDGET, "samples": 9, "pull_back": True}, "no gradient"),
        ({"mode": "pate", "budget": BUDGET, "samples": 9, "labels": True}, "no reduction"),
        ({"mode": "pate", "budget": BUDGET, "samples": 9, "scores": True}, "without noise"),
        ({"mode": "dp-teacher", "class_counts": True}, "without noise"),
        ({"labels": True, "top_k": 2}, "leaves nothing"),
        ({"labels": True, "pull_back": True}, "of logits alone"),
        ({"top_k": 0}, "expected an integer, 1 to 1000"),
        ({"rounding": 16}, "expected an integer, 1 to 15"),
    ],
)
def test_a_mode_that_cannot_be_kept_is_none(words: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Policy(**words)


def test_a_mode_needs_the_teacher_that_keeps_it(vaults: dict[str, Vault]) -> None:
    with pytest.raises(SettingsError, match="needs voters"):
        Institution("north", vaults["none"], noisy("pate"))
    with pytest.raises(SettingsError, match="trained here with differential privacy"):
        Institution("north", vaults["none"], Policy(mode="dp-teacher"))
    with pytest.raises(SettingsError, match="cannot share"):
        Institution("north", vaults["pate"], replace(noisy("pate"), noise=None, samples=10**15))
    with pytest.raises(SettingsError, match="an answer costs"):
        Institution("north", vaults["pate"], noisy("pate", Fraction(1, 100), budget=Budget(1.0)))


def test_an_owner_reads_what_is_promised_and_what_is_spent(vaults: dict[str, Vault]) -> None:
    policy = Policy(mode="pate", budget=BUDGET, samples=100)
    with closing(Ledger(None)) as ledger:
        north = Institution("north", vaults["pate"], policy, ledger)
        north.answer(Ask(few))
        ((data_set, micro_rho),) = charges(ledger).items()
    said = format_card(north.card)
    assert "epsilon 8 at delta 1e-05 for one training image (add or remove) by pate" in said
    assert "all that is ever answered, 100 images at most" in said
    line = format_spending(data_set, Spending(micro_rho), BUDGET)
    assert line.startswith(f"data set {data_set}: {micro_rho:,} of {BUDGET.micro_rho:,} micro-rho")
    assert "of 8 at delta 1e-05" in line
    assert "may disclose single images" in format_card(replace(north.card, guarantee=None))
    lines = said.splitlines()
    facts = lines[0].index("north")
    assert all(line[facts - 2 : facts] == "  " for line in lines), "label and fact run together"
    assert all(line[facts] != " " for line in lines)


ALTERNATIVES = {
    "pate": {"voters": 12},
    "dp-teacher": {"private": {"epsilon": 3.0}},
    "local-dp": {},
}


@pytest.mark.parametrize("mode", ALTERNATIVES)
def test_an_owner_writes_a_mode_and_what_it_needs(mode: str) -> None:
    budget = {"epsilon": 8.0, "delta": 1e-6}
    policy: dict[str, Any] = {"signals": ["logits"], "samples": 100, "mode": mode}
    policy |= {"budget": budget, "noise": 0.1} if MODES[mode].charged else {}
    said: dict[str, Any] = {
        "name": "north",
        "teacher": ALTERNATIVES[mode],
        "data": {"source": "digits"},
        "policy": policy,
        "state": {},
    }
    word = validate_settings(OwnerConfig, said).policy.to_policy()
    assert word.mode == mode
    if MODES[mode].charged:
        assert (word.budget, word.noise) == (Budget(8.0, 1e-6), Fraction(1, 10))
    for other in ALTERNATIVES.keys() - {mode, "local-dp"}:
        with pytest.raises(SettingsError, match="no other mode takes them"):
            validate_settings(OwnerConfig, {**said, "teacher": ALTERNATIVES[other]})


def test_an_experiment_names_a_mode_and_its_epsilon() -> None:
    told = simulated_policy(load_experiment("digits-pate", ["institutions.count=2"]))
    assert (told.mode, told.budget, told.noise) == ("pate", Budget(8.0), None)
    assert told.samples == load_experiment("digits-pate").questions.budget
    assert simulated_policy(load_experiment("digits-dp")).mode == "dp-teacher"
    assert simulated_policy(load_experiment("digits")).mode == "none"
    for wrong in ("privacy.mode=pate", "privacy.mode=dp-teacher"):
        with pytest.raises(SettingsError, match="give an epsilon exactly"):
            load_experiment("digits", [wrong])
    assert load_experiment("digits-dp").privacy.effective_mode == "dp-teacher"


# --- numbers


def number_gate(policy: Policy, said: list[float], ledger: Ledger | None = None) -> ReleaseGate:
    teacher = Constant(torch.tensor(said))
    released = build_release_mode(policy, teacher, None, numbers=True)
    numbers = tuple(Number(f"y{k}") for k in range(len(said)))
    card = Card("north", len(said), (1, 1, 4), released.signals, numbers=numbers)
    return ReleaseGate(
        policy, released, card, ledger or Ledger(None), b"", "" if ledger is None else "d"
    )


@pytest.mark.parametrize("said", [[0.3], [0.0, 1.0], [7.0, -2.0, float("nan")]])
def test_noisy_numbers_are_around_what_is_said_within_its_range(said: list[float]) -> None:
    gate = number_gate(noisy("local-dp", Fraction(1, 2)), said)
    answers = logits(gate.answer(Ask(distinct(4_000), frozenset({LOGITS})))).float()
    middle = torch.tensor(said).nan_to_num(0.5).clamp(0, 1)
    assert torch.allclose(answers.mean(0), middle, atol=0.05)
    assert answers.std(0).tolist() == pytest.approx([0.5] * len(said), rel=0.1)


def test_a_number_is_charged_for_all_of_its_range() -> None:
    ledger = Ledger(None)
    gate = number_gate(noisy("local-dp", 2), [0.3, 0.4], ledger)
    gate.answer(Ask(distinct(5), frozenset({LOGITS})))
    # rho of a row: D^2 / (2 s^2), D^2 = 2 numbers, s = 2.
    assert charges(ledger) == {"d": 5 * 250_000}
    gate.answer(Ask(distinct(5), frozenset({LOGITS})))
    assert charges(ledger) == {"d": 5 * 250_000}, "a repeat is free"


def test_neighbours_that_differ_by_a_range_are_told_apart_by_the_noise_alone() -> None:
    ends = [RangedGaussian(1, Fraction(3)).clipped(torch.tensor([[x]])) for x in (-9.0, 9.0)]
    assert [int(end) for end in ends] == [0, GRID_STEPS]


@pytest.mark.parametrize("mode", ["local-dp", "pate"])
def test_noise_that_cannot_be_drawn_is_told_before_it_is_charged(mode: str) -> None:
    voters: Teacher = PateEnsemble([Constant(torch.zeros(3))] * 2, 3)
    with pytest.raises(SettingsError, match=r"expected above 0 and at most 2\^40"):
        gate(noisy(mode, 2e12), voters if mode == "pate" else Constant(torch.zeros(3)))


@pytest.mark.parametrize("words", [{"labels": True}, {"top_k": 1}, {"rounding": 2}])
def test_numbers_have_no_likeliest_class(words: dict[str, Any]) -> None:
    """They were charged, and released as 2.2 of a range for each, or as 0."""
    vault = TrainedVault(replace(BASE, data="table:diabetes", model="table-mlp", count=2))
    with pytest.raises(SettingsError, match="this teacher predicts numbers; leave them out"):
        Institution("north", vault, Policy(**words))


def test_the_likeliest_of_all_classes_would_hide_nothing(vaults: dict[str, Vault]) -> None:
    with pytest.raises(SettingsError, match="top_k = 10 hides none of 10 classes"):
        Institution("north", vaults["none"], Policy(top_k=10))
    Institution("north", vaults["none"], Policy(top_k=9))


def test_votes_are_of_classes_alone() -> None:
    policy = noisy("pate")
    with pytest.raises(SettingsError, match="these predict numbers; choose dp-teacher or local-dp"):
        build_release_mode(policy, Constant(torch.tensor([0.3])), None, numbers=True)
