"""Benchmark of `fedkd reproduce`'s rounds against a plain PyTorch loop of the same method.

    python -m fedkd.simulations.benchmarks.direct [--quick] [--json FILE]

Compared is a round of exact CuDFKD: one generator step and the regime's student steps, each on
fresh images. The plain loop is ours, and has the shape of the public CuDFKD code: the same networks
from the same weights, float32, weights and images in PyTorch's own order (NCHW), hooks for the
batch-norm gap, optimisers as they are by default, teacher and student called as modules. After two
rounds both students have the same weights but for rounding, which is checked first. Our rounds are
measured in float32, and with convolutions of generator and student in bfloat16. Nobody has a
policy, a ledger or a codec; neither loop evaluates the student. CPU time is compared, since
machines are shared.
"""

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedkd.core.device import CPU, Compute
from fedkd.methods import make
from fedkd.models import ModuleTeacher, build_network
from fedkd.simulations.benchmarks.timing import (
    TIMING_HEADER,
    Alternative,
    measure_interleaved,
    print_table,
    ratio,
    timing_rows,
    write_json,
)
from fedkd.simulations.reproduction.direct_training import DirectTraining
from fedkd.simulations.reproduction.regime import Regime, load_regime

CLASSES, SHAPE, SEED = 10, (1, 32, 32), 0
TOLERANCE = 0.05
"""Largest distance of the two students after two rounds, as a share of the way that they went: from
sums in another order, which Adam enlarges where a slope is nearly 0."""
ROUNDS = 10_000
"""Of the regime while it is measured, so that schedules stand still; measured in the ramp."""


class PlainCudfkd:
    """The plain loop of CuDFKD.

    Args:
        training: whose networks are copied.
        teacher: in evaluation mode.
    """

    def __init__(self, training: DirectTraining, teacher: nn.Module) -> None:
        order = torch.contiguous_format
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.student = copy.deepcopy(training.student).to(memory_format=order)  # type: ignore[call-overload]
        self.generator = copy.deepcopy(training.source.target.network).to(memory_format=order)  # type: ignore[attr-defined]
        self.regime, self.rounds, self.steps = training.regime, training.rounds, 0
        self.student_steps = training.plan.steps
        self.curriculum = training.method.curriculum
        self.rng = torch.Generator().manual_seed(SEED)
        given = self.regime.arguments
        self.adversarial = float(given.get("adversarial_stop", 62.0))
        rate = float(given.get("generator_rate", 1e-3))
        self.improver = torch.optim.Adam(self.generator.parameters(), rate, (0.9, 0.99))
        self.optimizer = torch.optim.Adam(self.student.parameters(), 2e-3)
        self.rate = training.regime.student.rate(self.student_steps)
        self.gaps: list[Tensor] = []
        for module in self.teacher.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(self._hook)

    def _hook(self, norm: nn.BatchNorm2d, inputs: tuple[Tensor], _: Tensor) -> None:
        x = inputs[0]
        mean = x.mean([0, 2, 3])
        channels = x.shape[1]
        variance = x.permute(1, 0, 2, 3).contiguous().view(channels, -1).var(1, unbiased=False)
        self.gaps.append(
            (norm.running_var - variance).norm(2) + (norm.running_mean - mean).norm(2)  # type: ignore[operator]
        )

    def round(self) -> None:
        """A generator step, then student steps, each on fresh images."""
        self._generator_step()
        for _ in range(self.regime.student.steps):
            self._student_step()
        self.rounds += 1

    def _draw(self, count: int) -> Tensor:
        z = torch.randn(count, self.generator.latent, generator=self.rng)
        images: Tensor = self.generator(z)
        return images

    def _generator_step(self) -> None:
        self.student.eval()
        self.generator.train()
        x = self._draw(self.regime.generator.batch)
        self.gaps.clear()
        t, s = self.teacher(x), self.student(x)
        p = t.softmax(1).mean(0)
        apart = F.kl_div((s / 3).log_softmax(1), (t / 3).softmax(1), reduction="none").sum(1) * 9
        agree = (s.argmax(1) == t.argmax(1)).float()
        progress = self.rounds / self.regime.rounds_run
        adversarial = self.adversarial * min(max((progress - 0.25) / 0.5, 0.0), 1.0)
        loss = (
            F.cross_entropy(t, t.argmax(1))
            + torch.stack(self.gaps).sum()
            + 20 * (p * p.log()).sum()
            - adversarial * (apart * agree).mean()
        )
        self.improver.zero_grad()
        torch.autograd.backward(loss)
        self.improver.step()

    def _student_step(self) -> None:
        self.generator.eval()
        with torch.no_grad():
            x = self._draw(self.regime.student.batch)
            self.gaps.clear()
            t = self.teacher(x)
        self.student.train()
        s = self.student(x)
        apart = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
        loss = apart.abs().mean(1)
        weight = self.curriculum.weights(loss, self.steps / self.student_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.steps)
        self.optimizer.zero_grad()
        torch.autograd.backward((weight * loss).mean())
        self.optimizer.step()
        self.steps += 1


def both_loops(regime: Regime, compute: Compute) -> tuple[DirectTraining, PlainCudfkd]:
    """Our rounds and the plain ones, from the same weights, half way through the ramp."""
    teacher = build_network(regime.teacher.model, CLASSES, SHAPE, SEED)
    student = build_network(regime.student.model, CLASSES, SHAPE, SEED + 1)
    ours = DirectTraining(
        regime,
        make(regime.method, regime.arguments),
        ModuleTeacher(teacher, CLASSES),
        student,
        SHAPE,
        SEED,
        compute,
    )
    ours.rounds = regime.rounds_run // 2
    return ours, PlainCudfkd(ours, teacher)


def check_equal_students(regime: Regime) -> float:
    """Distance of the two students after two rounds, as a share of the way that they went.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    ours, plain = both_loops(regime, CPU)
    start = _weights(ours.student)
    for _ in range(2):
        ours.round()
        plain.round()
    one, other = _weights(ours.student), _weights(plain.student)
    share = float((one - other).norm() / (other - start).norm())
    if not share < TOLERANCE:
        raise RuntimeError(f"the two students differ by {share:.2%}; the loops do not do the same")
    return share


def _weights(network: nn.Module) -> Tensor:
    """All of them, in a copy, (N,)."""
    return torch.cat([weight.detach().flatten() for weight in network.parameters()])


def measure(regime: Regime, seconds: float) -> dict[str, Any]:
    """Measure both loops, print the table, return the ratios."""
    differ = check_equal_students(regime)
    exact, plain = both_loops(regime, CPU)
    rough, _ = both_loops(regime, Compute(CPU.device, torch.bfloat16))
    figures = measure_interleaved(
        [
            Alternative("plain loop, float32", plain.round, calls=1),
            Alternative("ours, float32", exact.round, calls=1),
            Alternative("ours, bfloat16", rough.round, calls=1),
        ],
        seconds,
    )
    steps = regime.student.steps
    title = (
        f"round: one generator step, {steps} student steps; {regime.teacher.model} to "
        f"{regime.student.model}, {SHAPE}, {regime.generator.batch} images"
    )
    print_table(title, TIMING_HEADER, timing_rows(figures, "ours, float32"))
    return {
        "case": title,
        "students_differ_by": differ,
        "ratio": ratio(figures, "plain loop, float32", "ours, float32", "cpu"),
        "ratio_bfloat16": ratio(figures, "plain loop, float32", "ours, bfloat16", "cpu"),
        "cpu_ms": {name: round(1e3 * figure.cpu, 2) for name, figure in figures.items()},
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.benchmarks.direct",
        description=(__doc__ or "").split("\n", 1)[0],
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="seconds and small batches")
    parser.add_argument("--batch", type=int, default=256, help="images in a step")
    parser.add_argument("--student-steps", type=int, default=2, help="to a generator step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch = 16 if options.quick else options.batch
    regime = load_regime(
        "cudfkd",
        [
            *(f"rounds={ROUNDS}", "share=1.0", f"student.steps={options.student_steps}"),
            *(f"generator.batch={batch}", f"student.batch={batch}", "generator.width=32"),
        ],
    )
    found = measure(regime, 2.0 if options.quick else 40.0)
    print(
        f"CPU time of the plain loop over ours: {found['ratio']:.2f} in float32, "
        f"{found['ratio_bfloat16']:.2f} in bfloat16"
    )
    write_json(found, options.json)


if __name__ == "__main__":
    main()
