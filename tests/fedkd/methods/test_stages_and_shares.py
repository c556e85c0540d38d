"""Stages, replay, public samples, ensembles and shares of the questions, as papers have them."""

import pytest
import torch
from torch import nn

from fedkd.aggregation import LearnedWeights
from fedkd.core.public_data import PublicData
from fedkd.errors import NeedsError, SettingsError
from fedkd.loop import Plan, Progress, distil, drive
from fedkd.losses import cross_entropy, kl_divergence, l1_centred
from fedkd.methods import (
    Method,
    co_boosting,
    cudfkd,
    dense,
    dfme,
    dip_kd,
    disguide,
    fast_dfkd,
    hidfd,
    ideal,
    make,
    pre_dfkd,
    rdskd,
    zskd,
)
from fedkd.methods.source_shares import shares
from fedkd.models import InProcess
from fedkd.procedural import build_priors
from fedkd.protocol import Card, Signal
from fedkd.student import UNIFORM
from fedkd.synthesis import (
    DataImpressions,
    Discriminator,
    MetaLatentBatch,
    PublicSamples,
    SurrogateTrained,
)
from tests.support.method_parts import latent_of, shares_of, steps_of, weights_of
from tests.support.tapped_generators import generator_of

SOME, OTHER = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(5))


# --- stages, replay, ensembles


def test_fast_dfkd_opposes_the_student_once_there_is_one() -> None:
    def adversarial(method: Method) -> list[float]:
        return [weights_of(method, p)["adversarial_kl"] for p in (0.0, 0.08, 0.09, 1.0)]

    assert adversarial(fast_dfkd()) == [0.0, 0.0, 1.33, 1.33]
    assert fast_dfkd().student_from == 0.09
    # In shares of the generator's own questions, which begin with the student's first step.
    assert adversarial(fast_dfkd(warm_up=0.5, student_from=0.5)) == [1.33] * 4
    assert torch.equal(fast_dfkd().loss(SOME, OTHER), kl_divergence(20.0)(SOME, OTHER))
    for meta_update, reptile in (("fomaml", None), ("reptile", 67.0)):
        target = generator_of(make("fast_dfkd", {"meta_update": meta_update})).target
        assert isinstance(target, MetaLatentBatch)
        assert (target.meta_rate, target.latent_rate, target.reptile) == (0.015, 0.01, reptile)


def test_pre_dfkd_replays_one_image_for_eight_new_ones() -> None:
    method = pre_dfkd(warm_up=0.4, generated=0.9)
    early, late = ({**shares_of(method, p)} for p in (0.3, 0.5))
    del early["evolution"], late["evolution"]
    assert early == {"prior": 1.0, "generator": 0.0, "replay": 0.0}
    assert late == pytest.approx({"prior": 0.1, "generator": 0.8, "replay": 0.1})


@pytest.mark.parametrize(
    ("method", "latent", "steps", "betas", "temperature"),
    [
        (dense(), 256, 30, (0.5, 0.999), 20.0),
        (co_boosting(), 256, 30, (0.5, 0.999), 4.0),
        (zskd(), None, 1500, (0.9, 0.999), 20.0),
    ],
    ids=lambda x: x.name if isinstance(x, Method) else "",
)
def test_papers_of_ensembles_set_what_their_public_code_sets(
    method: Method, latent: int | None, steps: int, betas: tuple[float, float], temperature: float
) -> None:
    generator = generator_of(method)
    assert (generator.rate, generator.betas, steps_of(method)) == (1e-3, betas, steps)
    assert torch.equal(method.loss(SOME, OTHER), kl_divergence(temperature)(SOME, OTHER))
    assert (method.gradient.name, method.rule_for("auto")) == ("pull_back", "mean_logits")
    if latent is None:
        assert isinstance(generator.target, DataImpressions)
        assert (generator.target.scales, generator.target.temperature) == ((1.0, 0.1), 20.0)
    else:
        assert latent_of(method) == latent
    assert isinstance(method.aggregation, LearnedWeights) == (method.name == "co_boosting")


def test_hidfd_trains_its_generator_first_and_its_student_on_a_hybrid() -> None:
    method = hidfd()
    generator, (public, schedule) = generator_of(method), method.sources["public"]
    assert (latent_of(method), generator.rate, generator.betas) == (128, 2e-4, (0.0, 0.999))
    assert isinstance(public, PublicSamples)
    assert (public.times, schedule) == (10, None)
    read = {spec for _, term in generator.terms for spec in term.reads}
    (discriminator,) = read
    assert isinstance(discriminator, Discriminator)
    assert discriminator.public is public
    assert (generator.until, method.student_from) == (0.5, 0.5)
    s, t = (x - x.mean(1, keepdim=True) for x in (SOME, OTHER))
    assert method.loss(SOME, OTHER).tolist() == pytest.approx(((s - t) ** 2).mean(1).tolist())


def test_hidfd_without_its_category_frequency_asks_for_no_gradient() -> None:
    card = Card("a", 10, (1, 8, 8), frozenset({Signal.LOGITS}))
    hidfd(frequency_weight=0.0).check([card])
    assert generator_of(hidfd(frequency_weight=0.0)).cost.pulled_back == 0
    with pytest.raises(NeedsError, match="pull_back"):
        hidfd().check([card])


@pytest.mark.parametrize("selection", ["prototypes", "random", None])
def test_hidfd_asks_about_those_of_its_public_samples_that_a_rule_chooses(
    selection: str | None,
) -> None:
    random = torch.Generator().manual_seed(2)
    samples = torch.randint(0, 256, (40, 1, 8, 8), generator=random, dtype=torch.uint8)
    public = PublicData.joined({"a": samples[:25], "b": samples[25:]})
    method = hidfd(
        latent=4, public_selection=selection, public_most=None if selection is None else 12
    )
    asked: list[Progress] = []

    def watch(progress: Progress) -> None:
        if progress.kind == "asked":
            asked.append(progress)

    teachers = InProcess({"a": nn.Sequential(nn.Flatten(), nn.Linear(64, 4))}, (1, 8, 8), 4)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    plan = Plan(100, 10, 20, student_batch=8, asking=1.0)
    drive(
        distil(student, method, teachers.cards, plan, {}, watch=watch, public=public),
        teachers.answer,
    )
    counts = asked[-1].facts["public"]
    assert isinstance(counts, dict)
    assert sum(counts.values()) == (40 if selection is None else 12)
    assert {progress.facts["origin"] for progress in asked} == {"public", "generator"}


@pytest.mark.parametrize("rule", ["log_linear_pool", "mean_probabilities"])
def test_a_plan_decides_how_answers_are_fused_but_not_what_is_learned(rule: str) -> None:
    assert dense().rule_for(rule) == rule
    assert cudfkd().rule_for("auto") == "auto"
    with pytest.raises(SettingsError, match="learns the weights of mean_logits, and the rule is"):
        co_boosting().rule_for(rule)


def test_rdskd_trains_its_generator_first_and_then_its_student() -> None:
    method = rdskd()
    generator = generator_of(method)
    captured = {term.capture_interval for _, term in generator.terms if term.capture}
    assert (generator.until, method.student_from, captured) == (0.5, 0.5, {120})
    assert {weight(p) for weight, _ in generator.terms for p in (0.0, 0.5, 1.0)} == {1.0}
    assert torch.equal(method.loss(SOME, OTHER), kl_divergence(10.0)(SOME, OTHER))
    questions, steps = [], []

    def watch(progress: Progress) -> None:
        if progress.kind == "asked":
            questions.append((progress.facts["asked"], progress.facts["done"]))
        if progress.kind == "generated":
            steps.append(progress.facts["asked"])

    teachers = InProcess({"a": nn.Sequential(nn.Flatten(), nn.Linear(16, 4))}, (1, 4, 4), 4)
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    plan = Plan(100, 10, 50, student_batch=8, asking=1.0)
    loop = distil(
        student, rdskd(latent=4), teachers.cards, plan, build_priors("noise"), watch=watch
    )
    assert drive(loop, teachers.answer).pulled_back == 50
    assert steps == [10, 20, 30, 40, 50]
    assert [done for asked, done in questions if int(str(asked)) <= 60] == [0.0] * 6
    assert questions[-1] == (100, 0.8)


def test_hard_labels_teach_the_decision_and_nothing_else() -> None:
    expected = [-float(s.log_softmax(0)[t.argmax()]) for s, t in zip(SOME, OTHER, strict=True)]
    assert cross_entropy(SOME, OTHER).tolist() == pytest.approx(expected)
    assert torch.equal(cross_entropy(SOME, OTHER), cross_entropy(SOME, 9 * OTHER + 1))
    by_label = (dip_kd(), ideal(), disguide(distillation_loss="cross_entropy"))
    assert {method.loss for method in by_label} == {cross_entropy}
    assert disguide().loss is l1_centred


def test_surrogate_steps_ask_nobody_and_directions_are_paid_for() -> None:
    for method, steps in ((ideal(), 30), (disguide(), 1)):
        generator = generator_of(method)
        assert isinstance(generator, SurrogateTrained)
        assert (generator.surrogate_steps, method.cost) == (steps, 1)
    assert [dfme(directions=m).gradient.questions for m in (1, 3)] == [1, 3]
    assert [dfme(directions=m).cost for m in (1, 3)] == [2, 4]


# --- shares of the questions


def test_sources_share_the_questions_as_told() -> None:
    method = cudfkd("straight_through", bn_weight=0.0, warm_up=0.4, generated=0.6, evolved=0.25)
    for progress, expected in ((0.39, (0.75, 0.25, 0.0)), (0.4, (0.3, 0.1, 0.6))):
        found = shares_of(method, progress)
        assert [found[n] for n in ("prior", "evolution", "generator")] == pytest.approx(expected)


@pytest.mark.parametrize(
    "name",
    [
        *("dafl", "zskt", "dfad", "dfme", "ta_dfkd", "rdskd", "dfq", "ideal", "disguide"),
        *("fast_dfkd", "cmi"),
    ],
)
def test_priors_may_ask_first_and_take_turns_after(name: str) -> None:
    method = make(name, {"warm_up": 0.4, "generated": 0.7})
    for progress, expected in ((0.39, (1.0, 0.0, 0.0)), (0.4, (0.3, 0.0, 0.7))):
        found = shares_of(method, progress)
        assert [found[n] for n in ("prior", "evolution", "generator")] == pytest.approx(expected)
    assert set(shares(None)) == {"prior", "evolution"}


def test_dip_kd_moves_banked_images_apart_once_its_primer_is_trained() -> None:
    method = dip_kd(primed=0.4)
    assert [shares_of(method, p) for p in (0.39, 0.4)] == [
        {"prior": 1.0, "contrast": 0.0},
        {"prior": 0.0, "contrast": 1.0},
    ]
    assert (method.student_from, set(method.student)) == (0.4, {"primer"})
    assert method.curriculum is UNIFORM
