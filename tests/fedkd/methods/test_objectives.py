"""Objectives, weights and defaults of methods against their papers."""

import math
from collections.abc import Iterator

import pytest
import torch

from fedkd.errors import SettingsError
from fedkd.losses import Batch, kl_divergence
from fedkd.methods import (
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
    disguide,
    fast_dfkd,
    hidfd,
    ideal,
    pre_dfkd,
    rdskd,
    ta_dfkd,
    zskd,
    zskt,
)
from fedkd.protocol import Signal
from tests.support.method_parts import latent_of, shares_of, steps_of, total, weights_of
from tests.support.tapped_generators import generator_of

LOGITS, BN_GAP = Signal.LOGITS, Signal.BN_GAP
FACTORIES = (dafl, zskt, dfad, dfme, ta_dfkd, rdskd, dfq, ddad, pre_dfkd, fast_dfkd, cmi, ideal)


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    e = [math.exp(x / temperature) for x in logits]
    return [x / sum(e) for x in e]


def both(temperature: float = 1.0) -> Iterator[tuple[list[float], list[float]]]:
    """Probabilities of teacher and student for eight images."""
    for t, s in zip(*LOGITS_OF_BOTH, strict=True):
        yield softmax(t, temperature), softmax(s, temperature)


def beliefs_apart() -> float:
    """mean_b KL(T || S)."""
    return sum(a * math.log(a / b) for p, q in both() for a, b in zip(p, q, strict=True)) / 8


def logits_apart() -> float:
    """mean |S - T| of centred logits."""
    found = 0.0
    for t, s in zip(*LOGITS_OF_BOTH, strict=True):
        t, s = [x - sum(t) / 4 for x in t], [x - sum(s) / 4 for x in s]
        found += sum(abs(a - b) for a, b in zip(s, t, strict=True)) / 4
    return found / 8


def sure_and_balanced() -> float:
    """CE(T, argmax T) - 5 H(mean_b softmax T)."""
    teacher = [p for p, _ in both()]
    mean = [sum(p[c] for p in teacher) / 8 for c in range(4)]
    return sum(-math.log(max(p)) for p in teacher) / 8 + 5 * sum(m * math.log(m) for m in mean)


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
    assert total(method, batch, progress) == pytest.approx(generator, rel=1e-6)
    loss = method.loss(own, teacher)
    weighted = method.curriculum.weights(loss, progress) * loss
    assert float(weighted.mean()) == pytest.approx(student)
    assert shares_of(method, progress) == {"prior": 0.0, "evolution": 0.0, "generator": 1.0}
    assert set(method.needs.signals) == {LOGITS}


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
    generator = generator_of(method)
    assert (method.gradient.name, latent_of(method), generator.rate) == (gradient, latent, rate)
    slow = method.name in ("fast_dfkd", "cmi", "dfq", "ideal")
    assert generator.betas == (0.5 if slow else 0.9, 0.999)


def test_a_temperature_is_that_of_generator_and_student() -> None:
    teacher, own = (torch.tensor(logits).double() for logits in LOGITS_OF_BOTH)
    batch = Batch(torch.zeros(8, 1, 2, 2), {LOGITS: teacher}, own)
    warm = zskt(temperature=4.0)
    ((_, term),) = generator_of(warm).terms
    assert float(term.value(batch)) == pytest.approx(-float(warm.loss(own, teacher).mean()))
    assert torch.equal(warm.loss(own, teacher), kl_divergence(4.0)(own, teacher))
    assert torch.equal(dafl(temperature=4.0).loss(own, teacher), kl_divergence(4.0)(own, teacher))


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        (
            ta_dfkd(),
            {"jensen_shannon": 1.0, "bn_gap": 10.0, "total_variation": 1.5e-5, "l2_norm": 6e-3},
        ),
        (dfq(), {"adversarial_kl": 1.0, "bn_gap": 1.0, "one_hot": 1.0, "class_balance": 20.0}),
        (ddad(), {"logit_discrepancy": 1.0, "bn_gap": 1.0, "one_hot": 1.0}),
        (ideal(), {"target_class": 1.0, "class_balance": 5.0}),
        (
            hidfd(),
            {"adversarial_realness": 1.0, "classwise_realness": 1.0, "category_frequency": 0.1},
        ),
        (dense(), {"target_class": 1.0, "bn_gap": 1.0, "boundary_support": 1.0}),
        (co_boosting(), {"hard_class": 1.0, "adversarial_kl": 1.0}),
        (zskd(), {"target_class": 1.0}),
        (
            deepinversion(adversarial_weight=10.0),
            {
                "target_class": 1.0,
                "bn_gap": 10.0,
                "total_variation": 1e-3,
                "jensen_shannon": 10.0,
            },
        ),
        (disguide(), {"disagreement": 1.0, "class_balance": 0.2}),
        (pre_dfkd(), {"one_hot": 1.0, "class_balance": 5.0, "jensen_shannon": 1.0}),
        (fast_dfkd(), {"bn_gap": 10.0, "target_class": 0.5, "adversarial_kl": 1.33}),
        (
            cmi(),
            {
                "bn_gap": 1.0,
                "target_class": 1.0,
                "adversarial_kl": 0.5,
                "instance_discrimination": 0.8,
            },
        ),
    ],
    ids=lambda x: x.name if isinstance(x, Method) else "",
)
def test_weights_are_those_that_the_docstring_says(
    method: Method, weights: dict[str, float]
) -> None:
    assert weights_of(method, 0.5) == weights
    assert set(method.needs.signals) == {LOGITS} | ({BN_GAP} if "bn_gap" in weights else set())


def test_the_student_is_in_training_mode_in_generator_steps_where_public_code_has_it_so() -> None:
    train = {m.name for m in (f() for f in FACTORIES) if generator_of(m).student_training}
    assert train == {"zskt", "dfad", "dfq", "pre_dfkd", "ta_dfkd"}


def test_deepinversion_follows_one_recipe_of_its_readme_in_units_of_our_pixels() -> None:
    weights = weights_of(deepinversion(), 0.5)
    assert weights == {"target_class": 1.0, "bn_gap": 10.0, "total_variation": 1e-3}
    assert generator_of(deepinversion()).rate == pytest.approx(0.1 / 4)


def test_co_boosting_moves_pixels_by_its_step_of_normalised_images() -> None:
    (source,) = (s.spec for n, s in co_boosting().sources.items() if n == "generator")
    assert source.step == pytest.approx(2 / 255)


def test_a_temperature_of_cudfkd_is_that_of_its_kl_loss_alone() -> None:
    teacher, own = (torch.tensor(logits).double() for logits in LOGITS_OF_BOTH)
    warm = cudfkd(distillation_loss="kl", temperature=20.0)
    assert torch.equal(warm.loss(own, teacher), kl_divergence(20.0)(own, teacher))
    plain, other = (cudfkd(temperature=t).loss(own, teacher + 3.0) for t in (4.0, 20.0))
    assert torch.equal(plain, other)
    apart = (own - own.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    assert torch.allclose(plain, apart.abs().mean(1)), "an offset of all classes decides nothing"


def test_a_weight_of_0_spares_institutions_the_gap() -> None:
    assert set(ta_dfkd(bn_weight=0.0).needs.signals) == {LOGITS}


def test_the_activation_term_is_asked_for_where_it_weighs_something() -> None:
    for factory in (dafl, pre_dfkd):
        assert Signal.ACTIVATION not in factory().needs.signals
        method = factory(activation_weight=0.1)
        assert Signal.ACTIVATION in method.needs.signals
        assert weights_of(method, 0.5)["activation"] == 0.1
    with pytest.raises(SettingsError, match="needs the gradient of activation"):
        dafl("straight_through", activation_weight=0.1)


def test_plain_deepinversion_does_not_ask_the_student() -> None:
    assert "jensen_shannon" not in weights_of(deepinversion(), 0.5)
    assert steps_of(deepinversion()) == 2000
