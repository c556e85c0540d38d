"""Where a run computes: one device, one layout; a step is what a plain loop would do."""

import pytest
import torch

from fedkd.core.bank import Bank
from fedkd.core.device import CPU, Compute
from fedkd.loop import Distillation, Plan, drive
from fedkd.methods import cudfkd
from fedkd.models import InProcess, build_network
from fedkd.procedural import build_priors
from fedkd.simulations.benchmarks import loop as benchmark
from fedkd.synthesis.generator_parameterisation import GeneratorParameterisation
from fedkd.synthesis.trained_generator_source import TrainedSource

SHAPE, K = (1, 8, 8), 10
ROUGH = Compute(torch.device("cpu"), torch.bfloat16)


def test_our_steps_come_to_the_losses_of_a_loop_that_anybody_would_write() -> None:
    case, method = benchmark.CASES["cnn"], cudfkd("pull_back", bn_weight=0.0, latent=64)
    rng = torch.Generator().manual_seed(0)
    bank = Bank()
    bank.add(
        torch.randint(0, 256, (256, *SHAPE), dtype=torch.uint8, generator=rng),
        torch.randn(256, K, generator=rng),
    )
    plain = benchmark.PlainLoop(case, method, CPU.device, bank)
    assert (
        benchmark.check_equal_losses(plain, benchmark.FedkdLoop(case, method, CPU, bank), CPU.dtype)
        < 1e-3
    )
    plain.method = cudfkd("pull_back", bn_weight=0.0, latent=64, distillation_loss="kl")
    with pytest.raises(RuntimeError, match="differ"):
        benchmark.check_equal_losses(plain, benchmark.FedkdLoop(case, method, CPU, bank), CPU.dtype)


def run(compute: Compute, gradient: str, steps: int = 12) -> Distillation:
    teachers = InProcess({"a": build_network("cnn", K, SHAPE, 0)}, SHAPE, K)
    stop = 0.0 if gradient == "student" else 62.0  # it disagrees with itself about nothing
    method = cudfkd(gradient, bn_weight=0.0, adversarial_stop=stop, latent=8)  # type: ignore[arg-type]
    plan = Plan(budget=64, batch=16, steps=steps, student_batch=16, held_back=0.0)
    made = Distillation(
        build_network("cnn", K, SHAPE, 7),
        method,
        teachers.cards,
        plan,
        build_priors("pink"),
        compute=compute,
    )
    drive(made.requests(), teachers.answer)
    return made


@pytest.mark.parametrize("gradient", ["none", "pull_back", "student"])
def test_bfloat16_comes_near_and_leaves_weights_as_they_are(gradient: str) -> None:
    exact, rough = (run(compute, gradient).student for compute in (CPU, ROUGH))
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (exact, rough)]
    assert {p.dtype for p in rough.parameters()} == {torch.float32}
    assert not torch.equal(*weights), "nothing was computed in bfloat16"
    start = torch.cat([p.flatten() for p in build_network("cnn", K, SHAPE, 7).parameters()])
    assert (weights[0] - weights[1]).norm() < (weights[0] - start).norm() / 2


def test_a_run_works_channels_last_and_leaves_a_student_in_everybodys_order() -> None:
    made = Distillation(
        *(build_network("cnn", K, SHAPE, 7), cudfkd("pull_back", bn_weight=0.0, latent=8)),
        *(InProcess({"a": build_network("cnn", K, SHAPE, 0)}, SHAPE, K).cards, Plan(budget=16)),
        build_priors("pink"),
    )
    source = made._scheduler.sources["generator"]
    assert isinstance(source, TrainedSource)
    assert isinstance(source.target, GeneratorParameterisation)
    for network in (made.student, source.target.network):
        for weight in network.parameters():
            assert weight.ndim < 4 or weight.is_contiguous(memory_format=torch.channels_last)
    assert all(weight.is_contiguous() for weight in run(CPU, "none").student.parameters())


def test_the_student_learns_nothing_from_a_generators_step() -> None:
    """Gradients of its weights would be computed and thrown away."""
    made = run(CPU, "pull_back", steps=0)
    assert made.generator_steps == 4
    assert all(weight.requires_grad for weight in made.student.parameters())
    assert all(weight.grad is None for weight in made.student.parameters())


def test_logits_of_a_frozen_network_have_a_gradient_in_the_images_alone() -> None:
    network, pixels = build_network("cnn", K, SHAPE, 0), torch.rand(4, *SHAPE, requires_grad=True)
    next(network.parameters()).requires_grad_(False)
    torch.autograd.backward(CPU.frozen_logits(network, pixels).sum())
    assert pixels.grad is not None
    assert all(weight.grad is None for weight in network.parameters())
    assert [w.requires_grad for w in network.parameters()][:2] == [False, True]  # as before


@pytest.mark.parametrize(
    ("units", "dtype"),
    [
        ({"avx512_f": True, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True, "amx_bf16": False}, torch.float32),
        ({"avx512_f": True, "amx_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_fastest_is_bfloat16_where_the_processor_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, units: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    assert Compute.of("cpu", "fastest").dtype is dtype
    assert Compute.of("cpu", "auto").dtype is torch.float32
