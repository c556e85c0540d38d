"""Methods: each against its paper, what a method refuses, and that every one of them learns."""

import inspect
import math
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fedkd.client.vault.training.settings import SupervisedSettings
from fedkd.client.vault.training.supervised import train_teacher
from fedkd.data.datasets import Dataset, open_data
from fedkd.errors import NeedsError, SettingsError
from fedkd.loop import Plan, Progress, distil, drive
from fedkd.losses import Batch, one_hot
from fedkd.losses.distillation import cross_entropy, divergence, l1_centred
from fedkd.methods import (
    METHODS,
    Method,
    cmi,
    co_boosting,
    cudfkd,
    dafl,
    ddad,
    deepinversion,
    dense,
    dfad,
    dfme,
    dfq,
    dip_kd,
    disguide,
    fast_dfkd,
    hidfd,
    ideal,
    make,
    pre_dfkd,
    rdskd,
    ta_dfkd,
    ways,
    zskd,
    zskt,
)
from fedkd.methods.method import sources
from fedkd.models import InProcess, build_network
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Ask, Card, Request, Signal, as_float
from fedkd.server.run.public_data_loading import load_public_images
from fedkd.student.self_paced_curriculum import constant
from fedkd.synthesis import GRADIENTS, PULL_BACK

LOGITS, BN_GAP = Signal.LOGITS, Signal.BN_GAP


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    e = [math.exp(x / temperature) for x in logits]
    return [x / sum(e) for x in e]


def objective_of_the_paper(
    teacher: list[list[float]], student: list[list[float]], gap: float, progress: float
) -> float:
    """L_G of arXiv 2208.13648 for CIFAR-10, term by term, without tensors."""
    many, classes = len(teacher), len(teacher[0])
    one_hot = sum(-math.log(max(softmax(t))) for t in teacher) / many
    mean = [sum(softmax(t)[c] for t in teacher) / many for c in range(classes)]
    entropy = -sum(p * math.log(p) for p in mean)
    divergence = 0.0
    for t, s in zip(teacher, student, strict=True):
        if t.index(max(t)) == s.index(max(s)):
            p, q = softmax(t, 3), softmax(s, 3)
            divergence += 9 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    hardness = {0.0: 0.0, 0.25: 0.0, 0.3: 6.2, 0.5: 31.0, 0.75: 62.0, 1.0: 62.0}[progress]
    return one_hot + gap - 20 * entropy - hardness * divergence / many


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.3, 0.5, 0.75, 1.0])
def test_the_generators_objective_is_that_of_the_paper(progress: float) -> None:
    rng = torch.Generator().manual_seed(1)
    teacher, student = (3 * torch.randn(8, 4, generator=rng).double() for _ in range(2))
    batch = Batch(
        torch.zeros(8, 1, 2, 2), {LOGITS: teacher, BN_GAP: torch.tensor(1.7).double()}, student
    )
    total = sum(w(progress) * float(term.value(batch)) for w, term in cudfkd("pull_back").objective)
    expected = objective_of_the_paper(teacher.tolist(), student.tolist(), 1.7, progress)
    assert total == pytest.approx(expected, rel=1e-6)


def test_the_schedules_are_those_of_the_paper() -> None:
    method = cudfkd("pull_back")
    steps = (0, 25_000, 50_000, 100_000)
    paces = [method.curriculum.pace(step / 100_000) for step in steps]
    assert paces == pytest.approx([2.0 + 1e-4 * step for step in steps])
    assert [method.hardness(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 0, 0.5, 1, 1]
    assert (method.latent, method.generator_rate, method.generator_betas) == (
        512,
        1e-3,
        (0.9, 0.99),
    )
    assert method.curriculum.kind == "log"
    assert not method.curriculum.whole_batch


def test_a_run_without_a_curriculum_keeps_the_generators_ramp() -> None:
    plain, own = cudfkd("pull_back", curriculum="none"), cudfkd("pull_back")
    for progress in (0.0, 0.4, 0.6, 1.0):
        assert plain.hardness(progress) == own.hardness(progress)
        for (mine, _), (other, _) in zip(plain.objective, own.objective, strict=True):
            assert mine(progress) == other(progress)


def test_logits_only_is_the_default_and_asks_for_nothing_else() -> None:
    method = cudfkd()
    assert (method.needs, method.trains, method.objective) == ({LOGITS}, False, ())
    assert set(method.shares) == {"prior", "evolution"}


def test_the_exact_method_needs_the_gap_and_a_weight_of_0_removes_the_need() -> None:
    assert cudfkd("pull_back").needs == {LOGITS, BN_GAP}
    spared = cudfkd("pull_back", bn_weight=0.0)
    assert spared.needs == {LOGITS}
    assert [term.name for _, term in spared.objective] == ["one_hot", "class_balance", "agreement"]
    friendly = cudfkd("pull_back", adversarial_stop=0.0)
    assert "agreement" not in [term.name for _, term in friendly.objective]


def test_sources_share_the_questions_as_told() -> None:
    method = cudfkd("student", bn_weight=0.0, warm_up=0.4, generated=0.6, evolved=0.25)
    for progress, expected in ((0.39, (0.75, 0.25, 0.0)), (0.4, (0.3, 0.1, 0.6))):
        shares = [method.shares[n](progress) for n in ("prior", "evolution", "generator")]
        assert shares == pytest.approx(expected)


# --- the papers in which a generator asks everything


def both(temperature: float = 1.0) -> Iterator[tuple[list[float], list[float]]]:
    """Probabilities of teacher and student for eight images."""
    for t, s in zip(*LOGITS_OF_BOTH, strict=True):
        yield softmax(t, temperature), softmax(s, temperature)


def beliefs_apart() -> float:
    """mean_b KL(T || S)."""
    return sum(a * math.log(a / b) for p, q in both() for a, b in zip(p, q, strict=True)) / 8


def logits_apart() -> float:
    """mean |S - T| of centred logits."""
    total = 0.0
    for t, s in zip(*LOGITS_OF_BOTH, strict=True):
        t, s = [x - sum(t) / 4 for x in t], [x - sum(s) / 4 for x in s]
        total += sum(abs(a - b) for a, b in zip(s, t, strict=True)) / 4
    return total / 8


def sure_and_balanced() -> float:
    """CE(T, argmax T) - 5 H(mean_b softmax T)."""
    said = [p for p, _ in both()]
    mean = [sum(p[c] for p in said) / 8 for c in range(4)]
    return sum(-math.log(max(p)) for p in said) / 8 + 5 * sum(m * math.log(m) for m in mean)


LOGITS_OF_BOTH = (
    3 * torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(2)).double()
).tolist()


@pytest.mark.parametrize(
    ("method", "generator", "student"),
    [
        (dafl(), sure_and_balanced(), beliefs_apart()),
        (zskt(), -beliefs_apart(), beliefs_apart()),
        (dfad(), -logits_apart(), logits_apart()),
        (dfme(), -logits_apart(), logits_apart()),
    ],
    ids=lambda x: x.name if isinstance(x, Method) else "",
)
@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_both_objectives_are_those_of_the_paper_from_the_first_step_to_the_last(
    progress: float, method: Method, generator: float, student: float
) -> None:
    teacher, own = (torch.tensor(logits).double() for logits in LOGITS_OF_BOTH)
    batch = Batch(torch.zeros(8, 1, 2, 2), {LOGITS: teacher}, own)
    total = sum(w(progress) * float(term.value(batch)) for w, term in method.objective)
    assert total == pytest.approx(generator, rel=1e-6)
    loss = method.imitation(own, teacher)
    assert float((method.curriculum.weights(loss, progress) * loss).mean()) == pytest.approx(
        student
    )
    shares = {source: share(progress) for source, share in method.shares.items()}
    assert shares == {"prior": 0.0, "evolution": 0.0, "generator": 1.0}
    assert method.needs == {LOGITS}


@pytest.mark.parametrize(
    ("method", "gradient", "latent", "rate"),
    [
        (dafl(), "pull_back", 100, 1e-3),
        (zskt(), "pull_back", 100, 1e-3),
        (dfad(), "pull_back", 256, 1e-3),
        (dfme(), "finite_differences", 256, 1e-4),
        (ta_dfkd(), "pull_back", 1000, 1e-3),
        (rdskd(), "pull_back", 100, 1e-3),
        (dfq(), "pull_back", 256, 1e-3),
        (ddad(), "pull_back", 256, 1e-3),
        (ideal(), "student", 256, 1e-3),
        (disguide(), "student", 256, 1e-4),
        (pre_dfkd(), "pull_back", 1000, 1e-3),
        (fast_dfkd(), "pull_back", 256, 3e-3),
        (cmi(), "pull_back", 256, 1e-3),
    ],
    ids=lambda x: x.name if isinstance(x, Method) else "",
)
def test_defaults_are_those_of_the_paper(
    method: Method, gradient: str, latent: int, rate: float
) -> None:
    assert (method.gradient.name, method.latent, method.generator_rate) == (gradient, latent, rate)
    inverts = method.name in ("fast_dfkd", "cmi")
    assert method.generator_betas == (0.5 if inverts else 0.9, 0.999)


def test_a_temperature_is_that_of_generator_and_student() -> None:
    teacher, own = (torch.tensor(logits).double() for logits in LOGITS_OF_BOTH)
    batch = Batch(torch.zeros(8, 1, 2, 2), {LOGITS: teacher}, own)
    warm = zskt(temperature=4.0)
    ((_, term),) = warm.objective
    assert float(term.value(batch)) == pytest.approx(-float(warm.imitation(own, teacher).mean()))
    assert torch.equal(warm.imitation(own, teacher), divergence(4.0)(own, teacher))
    assert torch.equal(dafl(temperature=4.0).imitation(own, teacher), divergence(4.0)(own, teacher))


def test_ta_dfkd_sets_the_weights_of_its_public_code() -> None:
    weights = {term.name: weight(0.5) for weight, term in ta_dfkd().objective}
    assert weights == {
        "jensen_shannon": 1.0,
        "bn_gap": 10.0,
        "total_variation": 1.5e-5,
        "magnitude": 6e-3,
    }
    assert ta_dfkd(bn_weight=0.0).needs == {LOGITS}


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        (dfq(), {"agreement": 1.0, "bn_gap": 1.0, "one_hot": 1.0, "class_balance": 20.0}),
        (ddad(), {"discrepancy": 1.0, "bn_gap": 1.0, "one_hot": 1.0}),
        (ideal(), {"wanted_class": 1.0, "class_balance": 5.0}),
        (hidfd(), {"realness": 1.0, "sidedness": 1.0, "category_frequency": 0.1}),
        (dense(), {"wanted_class": 1.0, "bn_gap": 1.0, "boundary_support": 1.0}),
        (co_boosting(), {"hard_class": 1.0, "agreement": 1.0}),
        (zskd(), {"wanted_class": 1.0}),
        (
            deepinversion(adversarial_weight=10.0),
            {
                "wanted_class": 1.0,
                "bn_gap": 10.0,
                "total_variation": 1e-3,
                "magnitude": 3e-8,
                "jensen_shannon": 10.0,
            },
        ),
        (disguide(), {"disagreement": 1.0, "class_balance": 0.2}),
        (pre_dfkd(), {"one_hot": 1.0, "class_balance": 5.0, "jensen_shannon": 1.0}),
        (fast_dfkd(), {"bn_gap": 10.0, "wanted_class": 0.5, "agreement": 1.33}),
        (
            cmi(),
            {"bn_gap": 1.0, "wanted_class": 1.0, "agreement": 0.5, "distinctness": 0.8},
        ),
    ],
    ids=lambda x: x.name if isinstance(x, Method) else "",
)
def test_weights_are_those_that_the_docstring_says(
    method: Method, weights: dict[str, float]
) -> None:
    assert {term.name: weight(0.5) for weight, term in method.objective} == weights
    assert method.needs == {LOGITS} | ({BN_GAP} if "bn_gap" in weights else set())


def test_fast_dfkd_opposes_the_student_once_there_is_one() -> None:
    weights = {term.name: weight for weight, term in fast_dfkd().objective}
    assert [weights["agreement"](p) for p in (0.0, 1e-9, 1.0)] == [0.0, 1.33, 1.33]
    assert fast_dfkd().student_from == 0.09
    assert torch.equal(fast_dfkd().imitation(SOME, OTHER), divergence(20.0)(SOME, OTHER))
    for common, reptile in (("fomaml", None), ("reptile", 67.0)):
        reuse = fast_dfkd(common=common, epoch=4).reuse  # type: ignore[arg-type]
        assert reuse is not None
        assert (reuse.rate, reuse.latent_rate, reuse.reptile) == (0.012, 0.01, reptile)


def test_pre_dfkd_replays_one_image_for_eight_new_ones() -> None:
    shares = pre_dfkd(warm_up=0.4, generated=0.9).shares
    assert (shares["prior"](0.3), shares["generator"](0.3), shares["memory"](0.3)) == (1, 0, 0)
    told = [shares[source](0.5) for source in ("prior", "generator", "memory")]
    assert told == pytest.approx([0.1, 0.8, 0.1])


@pytest.mark.parametrize(
    ("method", "latent", "rate", "betas", "temperature"),
    [
        (dense(), 256, 1e-3, (0.5, 0.999), 20.0),
        (co_boosting(), 256, 1e-3, (0.5, 0.999), 4.0),
        (zskd(), 64, 1e-3, (0.9, 0.999), 20.0),
    ],
    ids=lambda x: x.name if isinstance(x, Method) else "",
)
def test_papers_of_ensembles_set_what_their_public_code_sets(
    method: Method, latent: int, rate: float, betas: tuple[float, float], temperature: float
) -> None:
    assert (method.latent, method.generator_rate, method.generator_betas) == (latent, rate, betas)
    assert torch.equal(method.imitation(SOME, OTHER), divergence(temperature)(SOME, OTHER))
    assert (method.gradient.name, method.rule_for("auto")) == ("pull_back", "mean_logits")
    assert method.epoch == {"dense": 30, "co_boosting": 30, "zskd": 1500}[method.name]


def test_hidfd_trains_its_generator_first_and_its_student_on_a_hybrid() -> None:
    method = hidfd()
    assert (method.latent, method.generator_rate, method.inflation) == (128, 2e-4, 10)
    assert (method.generator_until, method.student_from) == (0.5, 0.5)
    s, t = (x - x.mean(1, keepdim=True) for x in (SOME, OTHER))
    assert method.imitation(SOME, OTHER).tolist() == pytest.approx(((s - t) ** 2).mean(1).tolist())


@pytest.mark.parametrize("told", ["log_linear_pool", "mean_probabilities"])
def test_a_plan_decides_how_answers_are_fused_but_not_what_is_learned(told: str) -> None:
    assert dense().rule_for(told) == told
    assert cudfkd().rule_for("auto") == "auto"
    with pytest.raises(SettingsError, match="learns the weights of mean_logits, and the rule is"):
        co_boosting().rule_for(told)


def test_plain_deepinversion_does_not_ask_the_student() -> None:
    assert "jensen_shannon" not in [term.name for _, term in deepinversion().objective]


def test_rdskd_trains_its_generator_first_and_then_its_student() -> None:
    method = rdskd()
    assert (method.generator_until, method.student_from, method.epoch) == (0.5, 0.5, 120)
    assert {weight(p) for weight, _ in method.objective for p in (0.0, 0.5, 1.0)} == {1.0}
    assert torch.equal(method.imitation(SOME, OTHER), divergence(10.0)(SOME, OTHER))
    doors, steps = [], []

    def watch(progress: Progress) -> None:
        if progress.kind == "asked":
            doors.append((progress.facts["asked"], progress.facts["done"]))
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
    assert [done for asked, done in doors if asked <= 60] == [0.0] * 6
    assert doors[-1] == (100, 0.8)


SOME, OTHER = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(5))


def test_hard_labels_teach_the_decision_and_nothing_else() -> None:
    expected = [-float(s.log_softmax(0)[t.argmax()]) for s, t in zip(SOME, OTHER, strict=True)]
    assert cross_entropy(SOME, OTHER).tolist() == pytest.approx(expected)
    assert torch.equal(cross_entropy(SOME, OTHER), cross_entropy(SOME, 9 * OTHER + 1))
    heard = (dip_kd(), ideal(), disguide(imitation="cross_entropy"))
    assert {method.imitation for method in heard} == {cross_entropy}
    assert disguide().imitation is l1_centred


def test_directions_are_paid_for() -> None:
    assert [dfme(directions=m).gradient.questions for m in (1, 3)] == [1, 3]


@pytest.mark.parametrize(
    "name",
    [
        *("dafl", "zskt", "dfad", "dfme", "ta_dfkd", "rdskd", "dfq", "ideal", "disguide"),
        *("fast_dfkd", "cmi"),
    ],
)
def test_priors_may_ask_first_and_take_turns_after(name: str) -> None:
    shares = make(name, {"warm_up": 0.4, "generated": 0.7}).shares
    for progress, expected in ((0.39, (1.0, 0.0, 0.0)), (0.4, (0.3, 0.0, 0.7))):
        told = [shares[source](progress) for source in ("prior", "evolution", "generator")]
        assert told == pytest.approx(expected)
    assert set(sources(False)) == {"prior", "evolution"}


# --- what is refused


@pytest.mark.parametrize("name", METHODS)
def test_a_generator_learns_by_the_gradients_that_its_factory_names_and_by_no_other(
    name: str,
) -> None:
    assert make(name, {}).gradient.name == ways(name)[0]
    known = inspect.signature(METHODS[name]).parameters
    for gradient in GRADIENTS if "gradient" in known else ():
        arguments = {"gradient": gradient, "bn_weight": 0.0}
        arguments = {key: value for key, value in arguments.items() if key in known}
        if gradient in ways(name):
            assert make(name, arguments).gradient.name == gradient
        else:
            with pytest.raises(SettingsError, match=f"{name} has nothing to learn by gradient"):
                make(name, arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("zskt", {"gradient": "student"}, "choose one of pull_back, straight_through, finite"),
        ("dafl", {"gradient": "none"}, "choose one of pull_back, student"),
        ("dfad", {"gradient": "pullback"}, "unknown gradient 'pullback'"),
        ("dfme", {"gradient": "pull_back"}, "dfme takes no argument gradient"),
        ("dfme", {"directions": 0}, "expected directions >= 1"),
        ("dfme", {"step": 0.0}, "finite step > 0"),
        ("zskt", {"temperature": 0.0}, "expected a finite temperature > 0, got 0.0"),
        ("dafl", {"balance_weight": -5.0}, "weight of class_balance is -5.0"),
        ("dafl", {"one_hot_weight": 0.0, "balance_weight": 0.0}, "a generator without terms"),
        ("deepinversion", {"jitter": 2.0}, "expected network, latents or pixels and jitter in"),
        ("deepinversion", {"epoch": 0}, "deepinversion: epoch 0"),
        ("ideal", {"generator_steps": -1}, "ideal: -1 rehearsals"),
        ("disguide", {"students": 1}, "1 students cannot disagree"),
        ("disguide", {"generator_steps": -1}, "disguide: -1 rehearsals"),
        ("pre_dfkd", {"replayed": 1.0}, "1.0 replayed; expected a share"),
        ("pre_dfkd", {"memory_rate": 0.0}, "Memory(steps=1, rate=0.0"),
        ("pre_dfkd", {"memory_steps": 0}, "Memory(steps=0"),
        ("fast_dfkd", {"latent_rate": math.nan}, "latent_rate=nan"),
        ("fast_dfkd", {"common": "maml"}, "expected fomaml or reptile"),
        ("fast_dfkd", {"idle": 1.0}, "student from 1.0"),
        ("cmi", {"contrast_temperature": 0.0}, "Discrimination(temperature=0.0"),
        ("cmi", {"remembered": 0}, "capacity=0"),
        ("cmi", {"contrast_weight": -1.0}, "weight of distinctness is -1.0"),
        ("dip_kd", {"primed": 1.0}, "student from 1.0"),
        ("hidfd", {"inflation": 0}, "collected images count 0 times"),
        ("hidfd", {"critic_rate": 0.0}, "critic: rate 0.0"),
        ("hidfd", {"averaging": 1.0}, "expected averaging in [0, 1)"),
        ("hidfd", {"gradient": "student"}, "choose one of pull_back, finite"),
        ("dense", {"epoch": 0}, "dense: epoch 0"),
        ("co_boosting", {"step": 0.0}, "neighbours: step 0.0"),
        ("co_boosting", {"weight_rate": 0.0}, "boosting: rate 0.0"),
        ("co_boosting", {"weight_decay": 1.5}, "boosting: rate 0.01, decay 1.5"),
        ("co_boosting", {"hardness": -1.0}, "hard_class: expected a power >= 0, got -1.0"),
        ("zskd", {"scales": ()}, "expected scales > 0, got ()"),
        ("zskd", {"first_images": 0}, "first 0"),
        ("dip_kd", {"primer_steps": 0.0}, "primer: steps 0.0"),
        ("dip_kd", {"contrast_steps": 0}, "expected contrast_steps >= 1, got 0"),
        ("dip_kd", {"soft_weight": -1.0}, "the primer's part is -1.0"),
        ("rdskd", {"stage": 1.0}, "rdskd: epoch 120, generator until 1.0, student from 1.0"),
        ("rdskd", {"epoch": 0}, "rdskd: epoch 0"),
        ("rdskd", {"gradient": "student"}, "choose one of pull_back, finite"),
        ("ta_dfkd", {"threshold": 1.0}, "expected a threshold in [0, 1), got 1.0"),
        ("dfad", {"generated": 1.5}, "dfad: share of prior is -0.5"),
    ],
)
def test_what_makes_no_sense_to_a_paper_is_refused_in_one_line(
    name: str, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        make(name, arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"one_hot_weight": -1.0}, "weight of one_hot is -1.0 at 0% of the run"),
        ({"bn_weight": -0.1}, "weight of bn_gap is -0.1"),
        ({"balance_weight": -20.0}, "weight of class_balance is -20.0"),
        ({"adversarial_start": -1.0}, "weight of agreement is -1.0 at 0%"),
        ({"adversarial_stop": -62.0}, "weight of agreement is -31.0 at 50%"),
        ({"one_hot_weight": math.nan}, "weight of one_hot is nan"),
        ({"adversarial_stop": math.inf}, "weight of agreement is"),
        ({"latent": 0}, "latent 0"),
        ({"generator_rate": 0.0}, "generator_rate 0.0"),
        ({"pace_start": 0.0}, "0 < start <= stop"),
        ({"curriculum": "loud"}, "curriculum kind 'loud'"),
        ({"imitation": "l3"}, "unknown imitation 'l3'"),
    ],
)
@pytest.mark.parametrize("gradient", ["none", "pull_back"])
def test_what_makes_no_sense_is_refused_whether_or_not_a_generator_is_trained(
    gradient: str, weights: dict[str, float], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        make("cudfkd", {"gradient": gradient, **weights})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [{"generated": -0.5}, {"generated": 1.5}, {"evolved": 1.5}])
def test_a_share_lies_between_none_and_all(share: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"cudfkd: share of .* is -0.5"):
        cudfkd("student", bn_weight=0.0, warm_up=0.5, **share)


@pytest.mark.parametrize("gradient", ["student", "straight_through", "finite_differences"])
def test_the_gap_without_pull_back_is_refused_by_name(gradient: str) -> None:
    with pytest.raises(SettingsError, match="term bn_gap needs the gradient of bn_gap") as caught:
        cudfkd(gradient)
    assert 'gradient = "pull_back"' in str(caught.value)
    assert "weight of bn_gap to 0" in str(caught.value)
    assert cudfkd(gradient, bn_weight=0.0).gradient.name == gradient


def test_a_generator_without_terms_is_refused() -> None:
    weights = dict.fromkeys(("one_hot_weight", "balance_weight", "bn_weight"), 0.0)
    with pytest.raises(SettingsError, match="a generator without terms cannot learn"):
        cudfkd("pull_back", adversarial_stop=0.0, **weights)


def test_a_method_made_by_hand_is_held_to_the_same() -> None:
    shares = {"generator": constant(1.0)}
    with pytest.raises(SettingsError, match="mine: weight of one_hot is -2"):
        Method("mine", "none", ((constant(-2.0), one_hot()),), PULL_BACK, shares)
    with pytest.raises(SettingsError, match="mine: share of generator is -1"):
        Method("mine", "none", shares={"generator": constant(-1.0)})


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("cudfdk", {}, "unknown method 'cudfdk'; choose one of cudfkd"),
        ("cudfkd", {"gradeint": "none"}, "takes no argument gradeint (did you mean gradient?)"),
        ("cudfkd", {"gradient": "pullback"}, "unknown gradient 'pullback'"),
        ("cudfkd", {"bn_weight": "much"}, "cudfkd cannot be made of {'bn_weight': 'much'}"),
        ("cudfkd", {"gradient": ["none"]}, "cudfkd cannot be made of"),
    ],
)
def test_a_method_that_cannot_be_made_is_refused_in_one_line(
    name: str, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        make(name, arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_needs_are_held_against_every_card() -> None:
    told = frozenset({LOGITS, BN_GAP})
    cards = [Card(name, 4, (1, 2, 2), told, True) for name in ("east", "west")]
    cudfkd("pull_back").check(cards)
    silent = Card("north", 4, (1, 2, 2), frozenset({LOGITS}), True)
    with pytest.raises(NeedsError, match=r"bn_gap \(term bn_gap\), which north does not release"):
        cudfkd("pull_back").check([*cards, silent])
    cudfkd("pull_back", bn_weight=0.0).check([*cards, silent])
    cudfkd().check([silent])


def test_the_l1_of_the_paper_is_the_default_up_to_an_offset() -> None:
    assert cudfkd().imitation is l1_centred
    student, teacher = torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([[0.5, 0.5, -1.0]])
    assert float(cudfkd().imitation(student, teacher)) == pytest.approx((0.5 + 1.5 + 1.0) / 3)


# --- every method, every gradient

BUDGET, STEPS = 2000, 200


def must_be_finite(optimiser: torch.optim.Optimizer, *_: object) -> None:
    """Of student and generator alike."""
    for group in optimiser.param_groups:
        assert all(bool(p.grad.isfinite().all()) for p in group["params"])


class Digits:
    """Two institutions with half of the digits each."""

    def __init__(self) -> None:
        self.data: Dataset = open_data("digits")
        teachers, counts = {}, {}
        for index, name in enumerate(("east", "west")):
            images, labels = self.data.train_images[index::2], self.data.train_labels[index::2]
            teachers[name] = train_teacher("cnn", images, labels, 10, SupervisedSettings(4), index)
            counts[name] = labels.bincount(minlength=10).tolist()
        self.at_hand = InProcess(teachers, self.data.shape, 10, counts)

    def learned(self, method: Method, *names: str) -> tuple[float, list[Request]]:
        """Accuracy of a student that asked about these priors, and what was asked."""
        asked: list[Request] = []

        def put(request: Request) -> Answers:
            asked.append(request)
            answers = self.at_hand.answer(request)
            for reply in answers.values():
                assert reply.gradient is None or bool(reply.gradient.isfinite().all())
            return answers

        student = build_network("cnn", 10, self.data.shape, 0)
        plan = Plan(BUDGET, 64, STEPS, student_batch=64, learning_rate=5e-3)
        own = load_public_images("typeset-digits", self.data.shape) if method.inflation else None
        loop = distil(
            student, method, self.at_hand.cards, plan, build_priors(*names), collected=own
        )
        watching = register_optimizer_step_pre_hook(must_be_finite)
        try:
            distilled = drive(loop, put)
        finally:
            watching.remove()
        assert distilled.asked == BUDGET
        assert bool(distilled.generator_steps) == method.trains
        return self.accuracy(student), asked

    def accuracy(self, student: nn.Module) -> float:
        with torch.no_grad():
            decided = student(as_float(self.data.test_images)).argmax(1)
        return float((decided == self.data.test_labels).float().mean())


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="module")
def control(digits: Digits) -> dict[bool, float]:
    """What is learned from uniform noise: of scores, and of decisions alone (True)."""
    losses = {False: "kl", True: "cross_entropy"}
    return {
        hard: digits.learned(cudfkd(imitation=loss), "noise")[0] for hard, loss in losses.items()
    }


GENTLE = {
    "imitation": "kl",
    "balance_weight": 1.0,
    "adversarial_stop": 5.0,
    "adversarial_ceiling": 5.0,
    "latent": 32,
    "warm_up": 0.3,
    "generated": 0.5,
}


OWN: dict[str, dict[str, object]] = {
    "dip_kd": {"imitation": "cross_entropy"},
    "deepinversion": {"epoch": 5, "flips": False},
    "ideal": {"imitation": "cross_entropy", "generator_steps": 10, "latent": 256},
    "disguide": {"generator_steps": 10, "generator_rate": 1e-3},
    "fast_dfkd": {"temperature": 4.0, "flips": False},
    "cmi": {"temperature": 4.0, "flips": False, "epoch": 5},
    "dense": {"epoch": 5},
    "co_boosting": {"epoch": 5},
    "zskd": {"epoch": 5, "generator_rate": 0.05},
}
"""What belongs to a paper so much that it is not itself without."""


def battery() -> Iterator[tuple[str, dict[str, object]]]:
    """Every method with every gradient that it can be told to use."""
    for name, factory in METHODS.items():
        known = inspect.signature(factory).parameters
        for gradient in ways(name):
            wishes = {**GENTLE, "gradient": gradient, "bn_weight": float(gradient == "pull_back")}
            wishes |= OWN.get(name, {})
            yield name, {key: value for key, value in wishes.items() if key in known}


@pytest.mark.parametrize(
    ("name", "arguments"), battery(), ids=lambda x: x.get("gradient") if isinstance(x, dict) else x
)
def test_it_asks_what_it_declares_stays_finite_and_beats_noise(
    name: str, arguments: Mapping[str, object], digits: Digits, control: dict[bool, float]
) -> None:
    """In the mixed setting: priors ask first, and half of the questions after that.

    A generator that asks everything from the start, as in DAFL, ZSKT, DFAD and DFME, does not beat
    noise within so few questions and steps. That a method beats noise here says that its generator
    does not spoil what the priors teach, not that it teaches more.
    """
    method = make(name, arguments)
    accuracy, asked = digits.learned(method)
    for request in asked:
        if isinstance(request, Ask):
            assert request.signals <= method.needs
        else:
            assert method.gradient.pulls_back
            assert all(frozenset(each.cotangents) <= method.needs for each in request.values())
    assert accuracy > control[method.imitation is cross_entropy] + 0.10
