"""Teachers say what the formulas say, and pull back what autograd would."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from fedkd.errors import NeedsError
from fedkd.models import ModuleTeacher, Network, ScikitTeacher, build_network
from fedkd.protocol import Signal

LOGITS, BN_GAP, FEATURES = Signal.LOGITS, Signal.BN_GAP, Signal.FEATURES
RELATIONS, ACTIVATION = Signal.RELATIONS, Signal.ACTIVATION
BOTH = frozenset({LOGITS, BN_GAP})
ONLY_LOGITS = frozenset({LOGITS})


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(name: str = "cnn", shape: tuple[int, int, int] = (1, 8, 8)) -> Network:
    """A network whose batch norms remember something, in evaluation mode."""
    network = build_network(name, 10, shape, 0).train()
    for seed in range(40):
        network(torch.rand(64, *shape, generator=rng(seed)) ** 3)
    return network.eval()


def images(count: int, seed: int = 7) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=rng(seed))


def gap_by_the_formula(network: nn.Module, x: Tensor) -> Tensor:
    """||running_var - var||_2 + ||running_mean - mean||_2 summed over layers, written out."""
    gaps = []
    for layer in network.modules():
        if not isinstance(layer, nn.BatchNorm2d):
            continue
        heard: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, read, to=heard: to.append(read[0]))
        network(x)
        hook.remove()
        h = heard[0].transpose(0, 1).flatten(1)  # (C, N H W)
        mean = h.sum(1) / h.shape[1]
        variance = ((h - mean[:, None]) ** 2).sum(1) / h.shape[1]
        gaps.append(((layer.running_var - variance) ** 2).sum().sqrt())
        gaps.append(((layer.running_mean - mean) ** 2).sum().sqrt())
    return torch.stack(gaps).sum()


@pytest.mark.parametrize("name", ["cnn", "wrn16-1"])
def test_the_gap_is_the_written_formula(name: str) -> None:
    network, x = trained(name), images(33)
    said = ModuleTeacher(network, 10).ask(x, BOTH)
    assert said[BN_GAP].shape == ()
    torch.testing.assert_close(said[BN_GAP], gap_by_the_formula(network, x), rtol=1e-5, atol=0)
    torch.testing.assert_close(said[LOGITS], network(x), rtol=1e-5, atol=1e-5)


def test_the_gap_is_small_near_what_was_learned_and_large_far_away() -> None:
    teacher = ModuleTeacher(trained(), 10)
    near = torch.rand(512, 1, 8, 8, generator=rng(99)) ** 3
    said = [float(teacher.ask(x, BOTH)[BN_GAP]) for x in (near, torch.ones(512, 1, 8, 8))]
    assert said[0] < said[1] / 2


def test_pull_back_equals_autograd_of_all_signals_together() -> None:
    network, x = trained(), images(40)
    cotangents = {
        LOGITS: torch.randn(40, 10, generator=rng(1)),
        BN_GAP: torch.tensor(0.7),
        FEATURES: torch.randn(40, 32, generator=rng(2)),
    }
    leaf = x.clone().requires_grad_()
    total = (
        (cotangents[LOGITS] * network(leaf)).sum()
        + (cotangents[FEATURES] * network.embed(leaf)).sum()
        + 0.7 * gap_by_the_formula(network, leaf)
    )
    (expected,) = torch.autograd.grad(total, leaf)
    pulled = ModuleTeacher(network, 10).pull_back(x, cotangents)
    # Single components may cancel to near 0, so the tolerance is of the largest.
    largest = float(expected.abs().max())
    torch.testing.assert_close(pulled, expected, rtol=1e-6, atol=1e-6 * largest)
    for signal in cotangents:
        less = {s: c for s, c in cotangents.items() if s is not signal}
        assert not torch.allclose(ModuleTeacher(network, 10).pull_back(x, less), expected)


def test_pull_back_is_the_slope_of_what_is_said() -> None:
    network, x = trained(), images(6).double()
    direction = torch.randn(x.shape, generator=rng(3)).double()
    cotangent = torch.randn(6, 10, generator=rng(4))
    exact = copy.deepcopy(network).double()

    def total(at: Tensor) -> float:
        with torch.no_grad():
            gap = gap_by_the_formula(exact, at)
            return float((cotangent * exact(at)).sum() + 2 * gap)

    step = 1e-6
    slope = (total(x + step * direction) - total(x - step * direction)) / (2 * step)
    pulled = ModuleTeacher(network, 10).pull_back(x, {LOGITS: cotangent, BN_GAP: torch.tensor(2.0)})
    assert float((pulled * direction).sum()) == pytest.approx(slope, rel=1e-3)


def test_bytes_and_floats_are_one_image() -> None:
    teacher = ModuleTeacher(trained(), 10)
    bytes_ = torch.randint(0, 256, (9, 1, 8, 8), generator=rng(), dtype=torch.uint8)
    floats = bytes_.float() / 255
    cotangents = {LOGITS: torch.randn(9, 10, generator=rng(1)), BN_GAP: torch.tensor(1.0)}
    assert torch.equal(teacher.ask(bytes_, BOTH)[LOGITS], teacher.ask(floats, BOTH)[LOGITS])
    assert torch.equal(teacher.pull_back(bytes_, cotangents), teacher.pull_back(floats, cotangents))


def test_large_batches_are_cut_except_for_the_gap() -> None:
    network, x = trained(), images(2500)
    teacher = ModuleTeacher(network, 10)
    cotangent = torch.randn(2500, 10, generator=rng(1))
    whole = frozenset({LOGITS, BN_GAP, FEATURES})
    sizes: list[int] = []
    teacher.module.head.register_forward_pre_hook(lambda _, read: sizes.append(len(read[0])))
    cut = teacher.ask(x, frozenset({LOGITS, FEATURES}))
    pulled = teacher.pull_back(x, {LOGITS: cotangent})
    assert sizes[:3] == [1024, 1024, 452]
    gradients = sizes[3:]
    assert gradients == [128] * 19 + [2500 - 19 * 128], "of few, since all activations are kept"
    uncut = teacher.ask(x, whole)
    pulled_uncut = teacher.pull_back(x, {LOGITS: cotangent, BN_GAP: torch.tensor(0.0)})
    assert sizes[3 + len(gradients) :] == [2500] * 2
    for signal in cut:
        torch.testing.assert_close(cut[signal], uncut[signal], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pulled, pulled_uncut, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(uncut[BN_GAP], gap_by_the_formula(network, x), rtol=1e-4, atol=0)


def test_relations_are_cosines_of_features_over_the_whole_batch() -> None:
    teacher, x = ModuleTeacher(trained(), 10), images(1100)  # more than one piece
    found = teacher.ask(x, frozenset({FEATURES, RELATIONS}))
    features = found[FEATURES].double()
    norms = features.square().sum(1).sqrt()
    expected = (features @ features.T) / norms[:, None] / norms
    torch.testing.assert_close(found[RELATIONS].double(), expected, rtol=0, atol=1e-5)


def test_the_activation_is_the_mean_magnitude_of_features_over_the_whole_batch() -> None:
    teacher, x = ModuleTeacher(trained(), 10), images(1100)  # more than one piece
    found = teacher.ask(x, frozenset({FEATURES, ACTIVATION}))
    assert found[ACTIVATION].shape == ()
    mean = float(found[FEATURES].double().abs().mean())
    assert float(found[ACTIVATION]) == pytest.approx(mean, rel=1e-5)
    few = x[:5]
    pulled = teacher.pull_back(few, {ACTIVATION: torch.tensor(2.0)})
    slopes = torch.ones(5, found[FEATURES].shape[1]) * 2.0 / found[FEATURES][:5].numel()
    signs = teacher.ask(few, frozenset({FEATURES}))[FEATURES].sign()
    expected = teacher.pull_back(few, {FEATURES: slopes * signs})
    torch.testing.assert_close(pulled, expected, rtol=1e-4, atol=1e-7)


def test_pulling_relations_back_is_their_slope() -> None:
    network, x = trained().double(), images(5).double()
    teacher, cotangent = ModuleTeacher(network, 10), torch.randn(5, 5, generator=rng(1))
    direction = torch.randn(x.shape, generator=rng(2), dtype=torch.float64)

    def total(at: Tensor) -> float:
        unit = F.normalize(teacher.module.embed(at), dim=1)
        return float((cotangent * (unit @ unit.T)).sum())

    step = 1e-6
    slope = (total(x + step * direction) - total(x - step * direction)) / (2 * step)
    pulled = ModuleTeacher(network.float(), 10).pull_back(x.float(), {RELATIONS: cotangent})
    assert float((pulled * direction).sum()) == pytest.approx(slope, rel=1e-3)


def test_the_callers_module_stays_as_it_was() -> None:
    network = trained().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    teacher = ModuleTeacher(network, 10)
    said = teacher.ask(images(4), BOTH)
    teacher.pull_back(images(4), said)
    assert network.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert all(torch.equal(before[n], value) for n, value in network.state_dict().items())
    nn.init.zeros_(network.head.weight)
    assert torch.equal(teacher.ask(images(4), BOTH)[LOGITS], said[LOGITS])
    assert not any(value.requires_grad for value in said.values())


def test_signals_are_those_that_the_module_can_give() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert ModuleTeacher(plain, 10).signals == {LOGITS}
    assert ModuleTeacher(trained("cnn-groupnorm"), 10).signals == set(Signal) - {BN_GAP}
    assert ModuleTeacher(trained(), 10).signals == set(Signal)
    with pytest.raises(NeedsError, match="bn_gap"):
        ModuleTeacher(plain, 10).ask(images(2), BOTH)
    with pytest.raises(NeedsError, match="features"):
        ModuleTeacher(plain, 10).pull_back(images(2), {FEATURES: torch.ones(2, 64)})


def test_threads_do_not_hear_each_other() -> None:
    teacher = ModuleTeacher(trained(), 10)
    batches = [images(16, seed) for seed in range(40)]
    alone = [float(teacher.ask(batch, BOTH)[BN_GAP]) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = [float(s[BN_GAP]) for s in pool.map(lambda b: teacher.ask(b, BOTH), batches)]
    assert together == pytest.approx(alone, rel=1e-5)


def fitted() -> tuple[ScikitTeacher, LogisticRegression, Tensor]:
    """A classifier of 4 classes that has seen only classes 0 and 3."""
    x = images(60)
    labels = np.where(x.mean((1, 2, 3)).numpy() > 0.5, 3, 0)
    model = LogisticRegression().fit(x.flatten(1).numpy(), labels)
    return ScikitTeacher(model, 4), model, x


def test_a_classifier_says_the_logarithm_of_its_probabilities() -> None:
    teacher, model, x = fitted()
    logits = teacher.ask(x, ONLY_LOGITS)[LOGITS]
    assert logits.shape == (60, 4)
    assert logits.dtype == torch.float32
    expected = torch.tensor(model.predict_proba(x.flatten(1).numpy()), dtype=torch.float32)
    torch.testing.assert_close(logits[:, [0, 3]].exp(), expected)
    torch.testing.assert_close(logits[:, 1:3].exp(), torch.full((60, 2), 1e-7))
    bytes_ = (x * 255).round().to(torch.uint8)
    torch.testing.assert_close(
        teacher.ask(bytes_, ONLY_LOGITS), teacher.ask(bytes_.float() / 255, ONLY_LOGITS)
    )


def test_a_classifier_answers_large_batches_in_order() -> None:
    teacher, model, _ = fitted()
    x = images(1500, 5)
    said = teacher.ask(x, ONLY_LOGITS)[LOGITS][:, [0, 3]].argmax(1) * 3
    assert said.tolist() == model.predict(x.flatten(1).numpy()).tolist()


def test_a_classifier_has_no_gradient_and_no_gap() -> None:
    teacher, _, x = fitted()
    assert not teacher.differentiable
    with pytest.raises(NeedsError, match="no gradient"):
        teacher.pull_back(x, {LOGITS: torch.ones(60, 4)})
    with pytest.raises(NeedsError, match="bn_gap"):
        teacher.ask(x, BOTH)
