"""Privacy audits: find planted bugs, do not accuse right code, agree with theory."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from torch import Tensor

from fedkd.client.ledger.answer_cache import AnswerCache, PrivacyCost
from fedkd.client.release.gate import ReleaseGate
from fedkd.client.vault.training.settings import DpSgdSettings, SupervisedSettings
from fedkd.data.datasets import open_data
from fedkd.errors import SettingsError
from fedkd.experiment import load_experiment
from fedkd.privacy import ClippedGaussian, NoisyArgmax, discrete_gaussian, epsilon_of_rho
from fedkd.privacy.empirical_epsilon import (
    clopper_pearson,
    correct_guesses,
    distinguish,
    epsilon_of_rates,
    one_run_epsilon,
    one_run_p_value,
)
from fedkd.privacy.membership_inference import (
    Population,
    area,
    auc,
    bootstrap_over_models,
    lira,
    margin,
    rmia,
    roc,
    tpr_at,
)
from fedkd.protocol import Ask, Refusal, Reply
from fedkd.simulations.audit import canaries, membership_inference, release_mechanisms
from fedkd.simulations.audit.release_mechanisms import (
    DELTA,
    AuditedMechanism,
    dp_sgd_step,
    local_dp_logits,
    noisy_vector,
    noisy_votes,
    pate_label,
)
from fedkd.simulations.audit.runner import CAVEAT
from fedkd.simulations.audit.shadow_federations import draw_candidates, train_federations
from fedkd.simulations.cli import app

PRIVATE = DpSgdSettings(epsilon=8.0, epochs=5, sampling_rate=0.2, accountant="rdp")
counts = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


# --- statistics


@given(counts, st.floats(0.001, 0.5))
def test_intervals_of_rates_are_the_exact_ones(counted: tuple[int, int], error: float) -> None:
    successes, trials = counted
    expected = stats.binomtest(successes, trials).proportion_ci(1 - error, "exact")
    assert clopper_pearson(*counted, error) == pytest.approx((expected.low, expected.high))


@given(st.floats(0, 6), st.floats(0, 0.3), st.floats(0.001, 0.999))
def test_no_more_is_inferred_from_rates_than_a_private_test_may_have(
    epsilon: float, delta: float, fpr: float
) -> None:
    # The best test that (epsilon, delta)-DP allows at this FPR.
    best = min(math.exp(epsilon) * fpr + delta, 1 - math.exp(-epsilon) * (1 - delta - fpr), 1.0)
    assert epsilon_of_rates(max(best, fpr), fpr, delta) <= epsilon + 1e-6


def test_epsilon_of_rates_by_hand() -> None:
    assert epsilon_of_rates(0.5, 0.1, 0.0) == pytest.approx(math.log(5))
    assert epsilon_of_rates(0.9, 0.5, 0.0) == pytest.approx(math.log(5))  # by those it spares
    assert epsilon_of_rates(0.5, 0.1, 0.2) == pytest.approx(math.log(3))
    assert epsilon_of_rates(0.3, 0.3, 0.0) == 0
    assert epsilon_of_rates(0.3, 0.0, 0.1) == math.inf


def test_a_bound_on_a_tight_claim_is_wrong_as_seldom_as_it_says() -> None:
    epsilon, error, rng = 1.0, 0.1, np.random.default_rng(0)
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))  # randomised response
    bounds = []
    for _ in range(1000):
        one, other = (rng.random(400) < p for p in (truth, 1 - truth))
        bounds.append(distinguish(one.astype(float), other.astype(float), 0.0, error).epsilon)
    wrong = sum(bound > epsilon for bound in bounds)
    assert stats.binomtest(wrong, len(bounds), error, "greater").pvalue > 1e-6
    assert np.median(bounds) > 0.5, "and it is no trivial bound"


def test_a_threshold_is_chosen_on_one_half_and_counted_on_the_other() -> None:
    # The first halves are far apart, the second are equal: nothing may be found.
    one = np.concatenate([np.full(500, 5.0), np.zeros(500)])
    other = np.zeros(1000)
    assert distinguish(one, other, 0.0).epsilon == 0
    both = np.full(1000, 5.0)
    limit, _ = clopper_pearson(500, 500, 0.05)
    found = distinguish(both, other, 0.0)
    assert (found.tpr, found.fpr, found.trials) == (limit, pytest.approx(1 - limit), 500)
    assert found.epsilon == pytest.approx(math.log(limit / (1 - limit)))


def test_bounds_refuse_nonsense() -> None:
    scores = np.zeros(8)
    for one, other, delta, error in (
        (scores, scores[:4], 0.0, 0.1),
        (scores[:2], scores[:2], 0.0, 0.1),
        (scores + math.nan, scores, 0.0, 0.1),
        (scores, scores, 1.0, 0.1),
        (scores, scores, 0.0, 0.0),
    ):
        with pytest.raises(SettingsError):
            distinguish(one, other, delta, error)
    with pytest.raises(SettingsError):
        clopper_pearson(3, 2)


# --- canaries in one run


def directly(m: int, r: int, v: int, epsilon: float, delta: float) -> float:
    """The theorem's bound, term by term."""
    q = 1 / (1 + math.exp(-epsilon))
    chance = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    worst = max((sum(chance[max(0, v - i) : v]) / i for i in range(1, m + 1)), default=0.0)
    return min(1.0, sum(chance[v:]) + 2 * m * delta * worst)


@given(
    st.integers(1, 60).flatmap(
        lambda m: st.tuples(
            st.just(m),
            st.integers(0, m).flatmap(lambda r: st.tuples(st.just(r), st.integers(0, r))),
        )
    ),
    st.floats(0, 5),
    st.sampled_from([0.0, 1e-5, 1e-3]),
)
def test_the_one_run_bound_is_the_theorems(
    counted: tuple[int, tuple[int, int]], epsilon: float, delta: float
) -> None:
    m, (r, v) = counted
    assert one_run_p_value(m, r, v, epsilon, delta) == pytest.approx(
        directly(m, r, v, epsilon, delta), abs=1e-9
    )


@pytest.mark.parametrize(("guesses", "ceiling"), [(10, 1.05), (100, 3.49), (1000, 5.81)])
def test_what_can_be_proven_at_most_by_guesses_that_are_all_right(
    guesses: int, ceiling: float
) -> None:
    bound = one_run_epsilon(guesses, guesses, guesses, 0.0)
    assert bound == pytest.approx(ceiling, abs=0.005)
    assert 1 / (1 + math.exp(-bound)) == pytest.approx(0.05 ** (1 / guesses))
    assert one_run_epsilon(guesses, guesses, guesses, 1e-5) <= bound
    assert one_run_epsilon(guesses, guesses, guesses // 2, 0.0) == 0


def test_randomised_response_is_bounded_by_its_own_epsilon() -> None:
    rng, epsilon, bounds = np.random.default_rng(0), 1.0, []
    for _ in range(60):
        inside = rng.random(300) < 0.5
        truthful = rng.random(300) < 1 / (1 + math.exp(-epsilon))
        scores = np.where(truthful, inside, ~inside) + rng.random(300) / 2
        bounds.append(one_run_epsilon(300, 200, correct_guesses(scores, inside, 200), 0.0, 0.1))
    wrong = sum(bound > epsilon for bound in bounds)
    assert stats.binomtest(wrong, 60, 0.1, "greater").pvalue > 1e-6
    assert np.median(bounds) > 0.6


def test_guesses_are_of_the_extremes() -> None:
    scores = np.array([0.0, 5.0, 2.0, 3.0, 9.0])
    inside = np.array([False, True, True, False, False])
    assert (
        correct_guesses(scores, inside, 2) == 1
    )  # the first is out as guessed, the last is not in
    assert correct_guesses(scores, inside, 3) == 2
    assert correct_guesses(scores, inside, 0) == 0
    with pytest.raises(SettingsError):
        correct_guesses(scores, inside, 6)


# --- membership


def test_margins_by_hand() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]]))
    expected = np.log([0.7 / 0.3, 0.1 / 0.9])
    np.testing.assert_allclose(margin(logits, np.array([0, 2])), expected)
    assert margin(np.array([[1e4, 0.0]]), np.array([1]))[0] == pytest.approx(-1e4)


def test_lira_is_the_ratio_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    inside = np.arange(40)[:, None] % 2 == np.zeros((1, 30))
    shadows = rng.normal(0, 1, (40, 30)) + 3 * inside
    target = rng.normal(1, 2, 30)
    means = [shadows[side].mean(0) for side in (inside[:, 0], ~inside[:, 0])]
    spreads = [
        np.sqrt(((shadows[side] - mean) ** 2).sum() / (19 * 30))
        for side, mean in zip((inside[:, 0], ~inside[:, 0]), means, strict=True)
    ]
    ratio = stats.norm.logpdf(target, means[0], spreads[0])
    ratio -= stats.norm.logpdf(target, means[1], spreads[1])
    np.testing.assert_allclose(lira(target, shadows, inside), ratio)
    above = stats.norm.cdf(lira(target, shadows, inside, online=False))
    np.testing.assert_allclose(above, stats.norm.cdf(target, means[1], spreads[1]))


def test_an_image_that_no_shadow_has_is_given_the_mean_of_the_others() -> None:
    inside = np.array([[True, False, False], [False, True, False]])
    shadows = np.array([[3.0, 1.0, 0.0], [0.5, 5.0, 0.5]])
    target = np.array([3.0, 1.0, 4.0])
    filled = shadows.copy()
    scores = lira(target, filled, inside)
    assert np.isfinite(scores).all()
    assert scores[2] > scores[1]
    with pytest.raises(SettingsError):
        lira(target, shadows, np.zeros((2, 3), bool))


def test_rmia_by_hand() -> None:
    inside = np.array([[True, False], [False, True]])
    shadows = np.array([[0.8, 0.2], [0.4, 0.6]])
    others = Population(np.array([0.5, 0.9, 0.1]), np.array([[0.5, 0.5, 0.4], [0.5, 0.4, 0.4]]))
    target = np.array([0.9, 0.2])
    # Ratios: 0.9 / 0.6 and 0.2 / 0.4; of the population 1, 2 and 0.25.
    np.testing.assert_allclose(rmia(target, shadows, inside, others), [2 / 3, 1 / 3])
    np.testing.assert_allclose(rmia(target, shadows, inside, others, gamma=2.0), [1 / 3, 1 / 3])
    # Offline with a = 0, p stands for (p + 1) / 2: 0.9 / 0.7, 0.2 / 0.6; 0.667, 1.241, 0.143.
    np.testing.assert_allclose(rmia(target, shadows, inside, others, offline=0.0), [1, 1 / 3])


def test_a_roc_by_hand() -> None:
    members, others = np.array([3.0, 2.0, 2.0, 0.0]), np.array([2.0, 1.0, 0.0, -1.0])
    fpr, tpr = roc(members, others)
    assert fpr.tolist() == [0, 0, 0.25, 0.5, 0.75, 1]
    assert tpr.tolist() == [0, 0.25, 0.75, 0.75, 1, 1]
    assert tpr_at(0.3, members, others).value == 0.75
    assert tpr_at(0.0, members, others).value == 0.25
    assert tpr_at(0.001, others, members).value == 0
    low, high = clopper_pearson(3, 4, 0.05)
    assert (tpr_at(0.25, members, others).low, tpr_at(0.25, members, others).high) == (low, high)


scores = st.lists(st.integers(-5, 5), min_size=1, max_size=30).map(lambda s: np.array(s, float))


@given(scores, scores)
def test_the_area_is_what_lies_below_the_curve(members: np.ndarray, others: np.ndarray) -> None:  # type: ignore[type-arg]
    fpr, tpr = roc(members, others)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert area(members, others) == pytest.approx(integrate.trapezoid(tpr, fpr))
    assert area(others, members) == pytest.approx(1 - area(members, others))
    found = auc(members, others)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high > found.low, "no number of scores makes anything certain"


def test_intervals_cover_the_truth() -> None:
    rng, missed, missed_by_models = np.random.default_rng(0), 0, 0
    truth = stats.norm.cdf(1 / math.sqrt(2))
    for _ in range(60):
        models = [(rng.normal(1, 1, 40), rng.normal(0, 1, 60)) for _ in range(8)]
        found = auc(*models[0])
        missed += not found.low <= truth <= found.high
        several = bootstrap_over_models(area, models, rng, draws=60)
        missed_by_models += not several.low <= truth <= several.high
    assert missed <= 12
    assert missed_by_models <= 25, "few models: too narrow, as it says, and not by much"


# --- the audits themselves


def private_step(noise: float) -> AuditedMechanism:
    return dp_sgd_step(PRIVATE, noise)


def two_votes(noise: float) -> AuditedMechanism:
    return noisy_votes(noise, classes=2)


# Trials of the right code, and of half its noise; of two votes 3,000 miss it in one audit of 40.
CASES = [
    (two_votes, 1000, 10_000),
    (noisy_vector, 3000, 3000),
    (pate_label, 1000, 4000),
    (local_dp_logits, 1000, 4000),
    (private_step, 100, 900),
]


@pytest.mark.parametrize(("make", "trials", "more"), CASES)
def test_half_the_noise_is_found_and_all_of_it_is_not_accused(
    make: Callable[[float], AuditedMechanism], trials: int, more: int
) -> None:
    right = release_mechanisms.audit_mechanism(make(1.0), trials, 1e-4)
    assert not right.violated
    wrong = release_mechanisms.audit_mechanism(make(0.5), more, 0.01)
    assert wrong.violated, (wrong.claim, wrong.bound)
    assert wrong.claim == right.claim


@pytest.mark.parametrize("make", [pate_label, local_dp_logits])
@pytest.mark.parametrize("bug", ["half the noise", "an eighth of the price"])
def test_a_bug_behind_the_door_is_found(
    make: Callable[[float], AuditedMechanism], bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def less(shape: tuple[int, ...], deviation: Fraction) -> Tensor:
        return discrete_gaussian(shape, deviation / 2)

    def cheaper(_: AnswerCache, price: PrivacyCost) -> int:
        return price.per_answer // 8

    if bug == "half the noise":
        monkeypatch.setattr("fedkd.privacy.mechanisms.discrete_gaussian", less)
    else:
        monkeypatch.setattr(AnswerCache, "cost_of", cheaper)
    found = release_mechanisms.audit_mechanism(make(1.0), 5000, 0.01)
    assert found.violated, (found.claim, found.bound)


def test_what_is_audited_left_a_door_and_was_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    answer = ReleaseGate.answer

    def noted(self: ReleaseGate, request: Ask, server: str = "") -> Reply | Refusal:
        asked.append(len(request.images))
        return answer(self, request, server)

    monkeypatch.setattr(ReleaseGate, "answer", noted)
    audited = pate_label()
    assert audited.epsilon == epsilon_of_rho(NoisyArgmax(Fraction(3, 2)).cost, DELTA)
    outputs = audited.release(audited.first, 300)
    assert asked == [1, 300]
    assert outputs.shape == (300, 2)
    assert 5 < int(outputs.argmax(1).sum()) < 150, "noise is drawn anew for each"
    clipped = local_dp_logits()
    price = ClippedGaussian(Fraction(1), Fraction(2)).cost
    assert clipped.epsilon == epsilon_of_rho(price, DELTA)


def test_right_code_is_not_accused_however_often_it_is_audited() -> None:
    accused, error = 0, 0.05
    for _ in range(20):
        accused += release_mechanisms.audit_mechanism(noisy_vector(), 2000, error).violated
        accused += release_mechanisms.audit_mechanism(noisy_votes(classes=2), 200, error).violated
    assert stats.binomtest(accused, 40, error, "greater").pvalue > 1e-6


def test_a_claim_is_refuted_by_what_is_released_and_not_by_its_name() -> None:
    leaky = replace(noisy_vector(), release=lambda values, count: values.expand(count, -1).clone())
    assert release_mechanisms.audit_mechanism(leaky, 100, 0.01).violated
    assert leaky.delta == DELTA


DIGITS = open_data("digits")


def test_canaries_tell_of_a_teacher_without_privacy_and_not_of_one_with_it() -> None:
    how = canaries.CanaryAttack("mlp", 120, 60)
    rng = np.random.default_rng(0)
    few = replace(
        DIGITS, train_images=DIGITS.train_images[:400], train_labels=DIGITS.train_labels[:400]
    )
    public = canaries.audit_canaries(how, few, SupervisedSettings(epochs=60, batch=64), rng)
    assert public.bound > 2
    assert public.claim is None
    assert not public.violated
    private = canaries.audit_canaries(how, few, replace(PRIVATE, epsilon=1.0), rng)
    assert private.claim == pytest.approx(1.0, abs=0.01)
    assert private.bound < private.claim
    assert not private.violated
    assert replace(private, claim=public.bound - 0.1, bound=public.bound).violated
    with pytest.raises(SettingsError):
        canaries.CanaryAttack("mlp", 10, 11)
    with pytest.raises(SettingsError, match="no network"):
        canaries.audit_canaries(
            replace(how, model="sklearn:LogisticRegression"), few, SupervisedSettings(), rng
        )


def test_canaries_of_rows() -> None:
    """A teacher of rows without privacy remembers more than half of what it guesses on."""
    how = canaries.CanaryAttack("table-mlp", 100, 50)
    wine, training = open_data("table:wine"), SupervisedSettings(epochs=60, batch=16)
    found = canaries.audit_canaries(how, wine, training, np.random.default_rng(0))
    assert found.right > 30
    numbers = open_data("table:diabetes")
    with pytest.raises(SettingsError, match="has numbers to predict"):
        canaries.audit_canaries(how, numbers, training, np.random.default_rng(0))


SMALL = ["student.steps=20", "questions.budget=128", "institutions.epochs=40"]


def test_worlds_are_dealt_by_fair_coins_and_answer_through_their_doors() -> None:
    experiment = load_experiment("digits-audit", [*SMALL, "institutions.epochs=1"])
    public = experiment.model_copy(
        update={"privacy": experiment.privacy.model_copy(update={"epsilon": None})}
    )
    rng = np.random.default_rng(0)
    of = draw_candidates(public, 300, 0.3, rng)
    truth = {
        bytes(i.numpy().tobytes()): int(y)
        for i, y in zip(DIGITS.train_images, DIGITS.train_labels, strict=True)
    }
    wrong = sum(
        truth[i.numpy().tobytes()] != int(y) for i, y in zip(of.candidates, of.labels, strict=True)
    )
    assert stats.binomtest(wrong, 300, 0.3).pvalue > 1e-6
    federations_ = train_federations(public, of, 2, rng)
    for world in federations_:
        assert world.members.sum(0).max() == 1, "an image is at one institution"
        assert stats.binomtest(int(world.members.sum()), 300, 0.5).pvalue > 1e-6
        assert world.answers.shape == (2, 300 + 360, 10)
        assert torch.equal(world.answers, world.answers.half().float()), "as it travels"
        assert world.student.shape == (300 + 360, 10)
    assert (federations_[0].members != federations_[1].members).any()


def test_members_are_found_where_teachers_know_them_by_heart() -> None:
    federations: list[str] = []
    overrides = [*SMALL, "privacy.epochs=1", "privacy.sampling_rate=0.5"]
    experiment = load_experiment("digits-audit", overrides)
    found = membership_inference.audit_membership(experiment, 3, 120, 0.3, federations.append)
    attacked, right = found.attacks, found.accuracies
    assert federations == ["no DP"] * 3 + ["ε = 3"] * 3
    assert len(attacked) == 8
    assert len(right) == 4
    areas = {(a.release, a.epsilon, a.attack): a.auc.value for a in attacked}
    assert areas["answers", None, "LiRA"] > 0.7
    assert areas["answers", None, "RMIA"] > 0.7
    assert areas["answers", None, "LiRA"] > areas["answers", 3.0, "LiRA"] + 0.1
    columns = found.columns
    assert len({len(column) for column in columns.values()}) == 1
    exported = (columns["release"] == "answers") & np.isinf(columns["epsilon"])
    # Two teachers a federation share out its members, and the population is in none.
    assert set(columns["member"][exported]) == {-1, 0, 1}
    margins = columns["margin"][exported].reshape(6, -1)
    np.testing.assert_array_equal(margins, found.margins[0].margins)
    np.testing.assert_array_equal(
        columns["member"][exported].reshape(6, -1)[:, :120], found.margins[0].members
    )


# --- the command


def run_command(*arguments: str) -> int:
    from typer.testing import CliRunner

    return CliRunner().invoke(app, ["audit", *arguments]).exit_code


def test_the_command_leaves_figures_and_says_what_they_do_not_prove(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [w for s in SMALL for w in ("--set", s)]
    outputs = ["--set", "privacy.epsilon=8", *small, "--set", "privacy.epochs=1"]
    out = tmp_path / "audit"
    asked = ("membership", *outputs, "--worlds", "3", "--images", "100", "--out", str(out))
    assert run_command(*asked) == 0
    figures = json.loads((out / "membership.json").read_text())
    assert figures["caveat"] == CAVEAT
    assert len(figures["attacks"]) == 8
    assert {p.name for p in out.iterdir()} == {
        "membership.json",
        "membership.svg",
        "membership.png",
    }
    assert "LiRA, ε = 8" in (out / "membership.svg").read_text()
    elsewhere = tmp_path / "c.json"
    asked = ("canaries", *outputs, "--images", "40", "--out", str(out), "--json", str(elsewhere))
    assert run_command(*asked) == 0
    assert [t["claim"] is None for t in json.loads(elsewhere.read_text())["teachers"]] == [
        True,
        False,
    ]


def test_the_mechanisms_command_fails_where_a_planted_bug_is_missed(tmp_path: Path) -> None:
    asked = ("mechanism", "digits", "--out", str(tmp_path), "--planted", "--trials")
    # Noise is drawn from the system and not from a seed: at 3,000 trials one run in fifteen misses
    # the votes with half their noise, at 8,000 fewer than one in a thousand.
    assert run_command(*asked, "8000") == 0
    figures = json.loads((tmp_path / "mechanism.json").read_text())
    assert [f["violated"] for f in figures["findings"]] == [False] * 4 + [True] * 4
    assert run_command(*asked, "8") == 1


@pytest.mark.parametrize("audit", ["", "mechanism", "membership", "canaries"])
def test_help_does_not_wait_for_torch(audit: str) -> None:
    arguments = ["fedkd", "audit", *filter(None, [audit]), "--help"]
    code = (
        f"import sys; sys.argv = {arguments}\n"
        "from fedkd.simulations.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'scipy', 'flwr', 'grpc'} & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
