"""What makes no sense to a method is refused in one line that says what does."""

import inspect
import math

import pytest

from fedkd.core.schedules import constant
from fedkd.errors import SettingsError
from fedkd.losses import one_hot
from fedkd.methods import METHODS, Method, Share, cudfkd, make, ways
from fedkd.synthesis import (
    GRADIENTS,
    PULL_BACK,
    GeneratorNetwork,
    TrainedGenerator,
)


@pytest.mark.parametrize("name", METHODS)
def test_a_generator_learns_by_the_gradients_that_its_factory_names_and_by_no_other(
    name: str,
) -> None:
    assert make(name, {}).gradient.name == ways(name)[0]
    known = inspect.signature(METHODS[name]).parameters
    for gradient in GRADIENTS if "gradient" in known else ():
        arguments = {"gradient": gradient, "bn_weight": 0.0, "adversarial_stop": 0.0}
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
        ("deepinversion", {"jitter": 2.0}, "model inversion: 2000 steps per batch, jitter 2.0"),
        ("deepinversion", {"steps_per_batch": 0}, "model inversion: 0 steps per batch"),
        ("ideal", {"generator_steps": -1}, "-1 surrogate steps"),
        ("disguide", {"students": 1}, "1 students cannot disagree"),
        ("disguide", {"generator_steps": -1}, "-1 surrogate steps"),
        ("pre_dfkd", {"replayed": 1.0}, "1.0 replayed; expected a share"),
        ("pre_dfkd", {"replay_rate": 0.0}, "GenerativeReplay(latent=1000, steps=1, rate=0.0"),
        ("pre_dfkd", {"replay_steps": 0}, "steps=0"),
        ("fast_dfkd", {"latent_rate": math.nan}, "meta initialisation: rates (0.015, nan"),
        ("fast_dfkd", {"meta_update": "maml"}, "expected fomaml or reptile"),
        ("fast_dfkd", {"student_from": 1.0}, "student from 1.0"),
        ("cmi", {"contrast_temperature": 0.0}, "InstanceDiscriminator(temperature=0.0"),
        ("cmi", {"bank_size": 0}, "capacity=0"),
        ("cmi", {"contrast_weight": -1.0}, "weight of instance_discrimination is -1.0"),
        ("dip_kd", {"primed": 1.0}, "begins 1.0; expected > 0 and in [0, 1)"),
        ("hidfd", {"public_repeats": 0}, "public samples count 0 times"),
        ("hidfd", {"discriminator_rate": 0.0}, "discriminator: rate 0.0"),
        ("hidfd", {"averaging": 1.0}, "averaging 1.0 from step 1000; expected >= 1, in [0, 1)"),
        ("hidfd", {"gradient": "student"}, "choose one of pull_back, finite"),
        ("dense", {"steps_per_batch": 0}, "model inversion: 0 steps per batch"),
        ("co_boosting", {"step": 0.0}, "output diversification: step 0.0"),
        ("co_boosting", {"weight_rate": 0.0}, "learned weights: rate 0.0"),
        ("co_boosting", {"weight_decay": 1.5}, "learned weights: rate 0.01, decay 1.5"),
        ("co_boosting", {"difficulty_power": -1.0}, "hard_class: expected a power >= 0, got -1.0"),
        ("zskd", {"scales": ()}, "expected scales > 0, got ()"),
        ("zskd", {"first_images": 0}, "first 0"),
        ("dip_kd", {"primer_steps": 0.0}, "primer: steps 0.0"),
        ("dip_kd", {"contrast_steps": 0}, "contrastive samples: 0 steps"),
        ("dip_kd", {"soft_weight": -1.0}, "the weight of the primer's logits is -1.0"),
        ("rdskd", {"stage": 1.0}, "rdskd: student from 1.0"),
        ("rdskd", {"capture_interval": 0}, "captured every 0 steps; expected an interval >= 1"),
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
        ({"adversarial_start": -1.0}, "weight of adversarial_kl is -1.0 at 0%"),
        ({"adversarial_stop": -62.0}, "weight of adversarial_kl is -31.0 at 50%"),
        ({"one_hot_weight": math.nan}, "weight of one_hot is nan"),
        ({"adversarial_stop": math.inf}, "weight of adversarial_kl is"),
        ({"latent": 0}, "latent 0"),
        ({"generator_rate": 0.0}, "generator: rate 0.0"),
        ({"lambda_start": 0.0}, "0 < start <= stop"),
        ({"curriculum": "loud"}, "curriculum kind 'loud'"),
        ({"distillation_loss": "l3"}, "unknown distillation loss 'l3'"),
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
        cudfkd("straight_through", bn_weight=0.0, warm_up=0.5, **share)


@pytest.mark.parametrize("gradient", ["student", "straight_through", "finite_differences"])
def test_the_gap_without_pull_back_is_refused_by_name(gradient: str) -> None:
    with pytest.raises(SettingsError, match="term bn_gap needs the gradient of bn_gap") as caught:
        cudfkd(gradient, adversarial_stop=0.0)
    assert 'gradient = "pull_back"' in str(caught.value)
    assert "weight of bn_gap to 0" in str(caught.value)
    assert cudfkd(gradient, bn_weight=0.0, adversarial_stop=0.0).gradient.name == gradient


def test_a_generator_without_terms_is_refused() -> None:
    weights = dict.fromkeys(("one_hot_weight", "balance_weight", "bn_weight"), 0.0)
    with pytest.raises(SettingsError, match="a generator without terms cannot learn"):
        cudfkd("pull_back", adversarial_stop=0.0, **weights)


def test_a_method_made_by_hand_is_held_to_the_same() -> None:
    with pytest.raises(SettingsError, match="weight of one_hot is -2"):
        TrainedGenerator(((constant(-2.0), one_hot()),), PULL_BACK, GeneratorNetwork(8))
    generator = TrainedGenerator(((constant(2.0), one_hot()),), PULL_BACK, GeneratorNetwork(8))
    with pytest.raises(SettingsError, match="mine: share of generator is -1"):
        Method("mine", "none", {"generator": Share(generator, constant(-1.0))})


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("cudfdk", {}, "unknown method 'cudfdk' (did you mean cudfkd?); choose one of cudfkd"),
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
