"""CuDFKD against its paper: the generator's objective, its ramp, the student's curriculum."""

import math

import pytest
import torch

from fedkd.losses import Batch, l1_centred
from fedkd.methods import cudfkd
from fedkd.protocol import Signal
from tests.support.method_parts import latent_of, total, weights_of
from tests.support.tapped_generators import generator_of

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
    adversarial = {0.0: 0.0, 0.25: 0.0, 0.3: 6.2, 0.5: 31.0, 0.75: 62.0, 1.0: 62.0}[progress]
    return one_hot + gap - 20 * entropy - adversarial * divergence / many


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.3, 0.5, 0.75, 1.0])
def test_the_generators_objective_is_that_of_the_paper(progress: float) -> None:
    rng = torch.Generator().manual_seed(1)
    teacher, student = (3 * torch.randn(8, 4, generator=rng).double() for _ in range(2))
    batch = Batch(
        torch.zeros(8, 1, 2, 2), {LOGITS: teacher, BN_GAP: torch.tensor(1.7).double()}, student
    )
    expected = objective_of_the_paper(teacher.tolist(), student.tolist(), 1.7, progress)
    assert total(cudfkd("pull_back"), batch, progress) == pytest.approx(expected, rel=1e-6)


def test_the_schedules_are_those_of_the_paper() -> None:
    method = cudfkd("pull_back")
    steps = (0, 25_000, 50_000, 100_000)
    lambdas = [method.curriculum.lambda_at(step / 100_000) for step in steps]
    assert lambdas == pytest.approx([2.0 + 1e-4 * step for step in steps])
    adversarial = [weights_of(method, p)["adversarial_kl"] for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert adversarial == [0, 0, 31, 62, 62]
    generator = generator_of(method)
    assert (latent_of(method), generator.rate, generator.betas) == (512, 1e-3, (0.9, 0.99))
    assert method.curriculum.kind == "log"
    assert not method.curriculum.whole_batch


def test_a_run_without_a_curriculum_keeps_the_generators_ramp() -> None:
    plain, own = cudfkd("pull_back", curriculum="none"), cudfkd("pull_back")
    for progress in (0.0, 0.4, 0.6, 1.0):
        assert weights_of(plain, progress) == weights_of(own, progress)


def test_logits_only_is_the_default_and_asks_for_nothing_else() -> None:
    method = cudfkd()
    assert set(method.needs.signals) == {LOGITS}
    assert not method.needs.pull_back
    assert set(method.sources) == {"prior", "evolution"}


def test_the_exact_method_needs_the_gap_and_a_weight_of_0_removes_the_need() -> None:
    assert set(cudfkd("pull_back").needs.signals) == {LOGITS, BN_GAP}
    assert cudfkd("pull_back").needs.pull_back
    spared = cudfkd("pull_back", bn_weight=0.0)
    assert set(spared.needs.signals) == {LOGITS}
    assert list(weights_of(spared, 0.5)) == ["one_hot", "class_balance", "adversarial_kl"]
    friendly = cudfkd("pull_back", adversarial_stop=0.0)
    assert "adversarial_kl" not in weights_of(friendly, 0.5)


def test_the_l1_of_the_paper_is_the_default_up_to_an_offset() -> None:
    assert cudfkd().loss is l1_centred
    student, teacher = torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([[0.5, 0.5, -1.0]])
    assert float(cudfkd().loss(student, teacher)) == pytest.approx((0.5 + 1.5 + 1.0) / 3)


def test_readers_are_told_when_no_generator_is_trained() -> None:
    assert cudfkd().title == "procedural samples, no generator (self-paced weights: log)"
    assert cudfkd(curriculum="none").title == "procedural samples, no generator (no curriculum)"
    assert cudfkd("pull_back").title == ""
