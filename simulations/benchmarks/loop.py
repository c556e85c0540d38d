"""Benchmark of student and generator steps against a plain PyTorch loop.

    python -m fedkd.simulations.benchmarks.loop [--device cuda] [--quick] [--json FILE]

Both do the same computation: from the same weights and images they get the same losses, which is
checked first. The plain loop keeps its data as a list of images, picks and
stacks them one by one as a DataLoader does, and computes in float32 with weights and images in
PyTorch's own order (NCHW); its generator step differentiates student and teachers in one piece, in
one process. Ours trains from the bank and, in a generator step, asks and pulls back as it does with
institutions, so that teachers see each batch twice. Neither uses a network connection.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.core.bank import Bank
from fedkd.core.device import Compute
from fedkd.core.interfaces import Context
from fedkd.core.run_plan import Plan
from fedkd.core.source_types import AnsweredBatch, Proposal, Turn
from fedkd.domains import domain_of
from fedkd.methods import Method, cudfkd
from fedkd.models import Generator, InProcess, build_network
from fedkd.procedural import build_prior
from fedkd.protocol import Ask, LabelSpaces, Signal
from fedkd.simulations.benchmarks.timing import (
    TIMING_HEADER,
    Alternative,
    measure_interleaved,
    print_table,
    ratio,
    timing_rows,
    write_json,
)
from fedkd.student.training import Trainer
from fedkd.synthesis import GeneratorNetwork, TrainedGenerator, TrainedSource, to_bytes
from fedkd.tasks import task_of

CLASSES, BANKED, PROGRESS = 10, 4096, 0.5
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest relative difference of losses, from sums in another order."""


@dataclass(frozen=True)
class Case:
    """Networks, image shape and batch size."""

    teacher: str
    student: str
    shape: tuple[int, int, int]
    batch: int


CASES = {
    "cnn": Case("cnn", "cnn", (1, 8, 8), 128),
    "cnn-32": Case("cnn", "cnn", (3, 32, 32), 128),
    "resnet": Case("resnet34", "resnet18", (3, 32, 32), 512),
}


class PlainLoop:
    """The plain loop."""

    def __init__(self, case: Case, method: Method, device: torch.device, bank: Bank) -> None:
        self.method, self.device, self.case = method, device, case
        images, targets = bank.images.cpu(), bank.targets.cpu()
        self.data = [(images[i], targets[i]) for i in range(len(bank))]
        self.student = build_network(case.student, CLASSES, case.shape, 1).to(device)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=2e-3, weight_decay=0.0)
        self.teacher = build_network(case.teacher, CLASSES, case.shape, 0).to(device).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.generator = Generator(_latent_size(method), case.shape).to(device)
        self.improver = torch.optim.Adam(self.generator.parameters(), 1e-3, (0.9, 0.99))

    def student_step(self, rng: torch.Generator) -> Tensor:
        """A student step; the loss of each image."""
        picked = torch.randint(len(self.data), (self.case.batch,), generator=rng).tolist()
        images = torch.stack([self.data[i][0] for i in picked]).to(self.device)
        targets = torch.stack([self.data[i][1] for i in picked]).to(self.device)
        self.student.train()
        loss = self.method.loss(self.student(images.float() / 255), targets)
        weight = self.method.curriculum.weights(loss, PROGRESS)
        self.optimizer.zero_grad()
        torch.autograd.backward((weight * loss).mean())
        self.optimizer.step()
        return loss.detach()

    def generator_step(self, rng: torch.Generator) -> list[float]:
        """A generator step; the values of its terms."""
        self.student.eval()
        z = torch.randn(self.case.batch, self.generator.latent, generator=rng).to(self.device)
        images = self.generator.train()(z)
        asked = images + ((images * 255).round() / 255 - images).detach()
        t, s = self.teacher(asked), self.student(asked)
        mean = t.softmax(1).mean(0)
        apart = 9 * F.kl_div(
            (s / 3).log_softmax(1), (t / 3).log_softmax(1), reduction="none", log_target=True
        ).sum(1)
        terms = [
            F.cross_entropy(t, t.argmax(1)),
            (mean * mean.clamp_min(1e-30).log()).sum(),
            -(apart * (s.argmax(1) == t.argmax(1))).mean(),
        ]
        self.improver.zero_grad()
        torch.autograd.backward(terms[0] + 20 * terms[1] + 31 * terms[2])
        self.improver.step()
        return [float(term.detach()) for term in terms]


class FedkdLoop:
    """The parts of fedkd's loop."""

    def __init__(self, case: Case, method: Method, compute: Compute, bank: Bank) -> None:
        self.method, self.case, self.bank = method, case, bank
        plan = Plan(budget=1, batch=1, steps=10_000, student_batch=case.batch)
        student = build_network(case.student, CLASSES, case.shape, 1)
        weights = method.curriculum.weights
        self.trainer = Trainer(student, method.loss, weights, plan, compute)
        # After the warm-up of a run and long before its end the rate is what the plan says.
        self.taken = plan.steps // 50
        teacher = build_network(case.teacher, CLASSES, case.shape, 0).to(compute.device)
        self.teachers = InProcess({"t": teacher}, case.shape, CLASSES)
        self.terms: dict[str, float] = {}
        """Values of the generator's terms at its last step."""
        context = Context(
            loss=method.loss,
            sample_weights=weights,
            plan=plan,
            shape=case.shape,
            classes=CLASSES,
            task=task_of(self.teachers.cards),
            domain=domain_of(self.teachers.cards),
            student=student,
            bank=bank,
            priors={},
            public=None,
            seed=0,
            rng=torch.Generator().manual_seed(0),
            compute=compute,
            clock=_Clock(plan),
            record=self._record,
        )
        self.source: TrainedSource = context.part(_generator(method))

    def student_step(self, rng: torch.Generator) -> Tensor:
        """A student step; the loss of each image."""
        return self.trainer.step(self.bank, rng, self.taken, PROGRESS)[0]

    def generator_step(self, rng: torch.Generator) -> list[float]:
        """A generator step; the values of its terms."""
        proposal = self.source.propose(Turn(self.case.batch, rng, PROGRESS))
        assert proposal is not None
        images = to_bytes(proposal.images)
        answers = self.teachers.answer(Ask(images, proposal.signals, exact=True))
        cards = self.teachers.cards
        fuse = build_fusion("mean_logits", cards)
        target = fuse.of(answers)[Signal.LOGITS]
        follow_ups = self.source.learn(
            AnsweredBatch(
                *(proposal, images, answers, target, None),
                *(LabelSpaces.of(cards), fuse, PROGRESS),
            )
        )
        assert follow_ups is not None
        try:
            request = next(follow_ups)
            while not isinstance(request, Proposal):
                request = follow_ups.send(self.teachers.answer(request))
        except StopIteration:
            return list(self.terms.values())
        raise RuntimeError("a generator that pulls back proposed further samples")

    def _record(self, kind: str, **facts: Any) -> None:
        self.terms = facts["terms"]


@dataclass(frozen=True)
class _Clock:
    """A run in which the generator still learns."""

    plan: Plan
    asked: int = 0
    progress: float = PROGRESS


def _generator(method: Method) -> TrainedGenerator:
    """The settings of the generator of a method."""
    specs = (share.spec for share in method.sources.values())
    return next(spec for spec in specs if isinstance(spec, TrainedGenerator))


def _latent_size(method: Method) -> int:
    target = _generator(method).target
    assert isinstance(target, GeneratorNetwork)
    return target.latent


def check_equal_losses(plain: PlainLoop, ours: FedkdLoop, dtype: torch.dtype) -> float:
    """Largest relative difference of the losses of a few steps.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    most = 0.0
    for step in range(3):
        one, other = (torch.Generator().manual_seed(step) for _ in "ab")
        a, b = plain.student_step(one).mean(), ours.student_step(other).mean()
        most = max(most, float((a - b).abs() / a))
        g, h = (torch.tensor(way.generator_step(r)) for way, r in ((plain, one), (ours, other)))
        most = max(most, float(((g - h).abs() / g.abs().clamp_min(1.0)).max()))
    if most > TOLERANCE[dtype]:
        raise RuntimeError(f"the two loops differ by {most:.2%}; they do not do the same")
    return most


def round_parts(
    ours: FedkdLoop, rng: torch.Generator, wait: Callable[[], None]
) -> list[Alternative]:
    """The parts of a round, each measured alone."""
    case, trainer, bank = ours.case, ours.trainer, ours.bank
    images, targets = bank.draw(case.batch, rng)
    memory = images.cpu()
    answers = ours.teachers.answer(Ask(memory))
    rule, pink_prior = build_fusion("mean_logits", ours.teachers.cards), build_prior("pink")
    pixels, fresh_bank = trainer.compute.pixels(images), Bank(BANKED, bank.device)

    def forward() -> Tensor:
        return ours.method.loss(trainer.compute.logits(trainer.network, images), targets)

    def waited(call: Callable[[], object]) -> Callable[[], None]:
        def both() -> None:
            call()
            wait()

        return both

    pieces: dict[str, Callable[[], object]] = {
        "bank: draw a batch": lambda: bank.draw(case.batch, rng),
        "bytes to floats": lambda: trainer.compute.pixels(images),
        "student: forward, loss": forward,
        "student: forward, loss, backward": lambda: torch.autograd.backward(forward().mean()),
        "student: optimiser": trainer.optimizer.step,
        "generator: draw": lambda: ours.source.propose(Turn(case.batch, rng, PROGRESS)),
        "floats to bytes": lambda: to_bytes(pixels),
        "prior pink: draw": lambda: pink_prior.draw(case.batch, case.shape, rng),
        "bank: which are new": lambda: bank.fresh(memory),
        "bank: add": lambda: fresh_bank.add(memory, targets),
        "teacher: answer": lambda: ours.teachers.answer(Ask(memory)),
        "fuse answers": lambda: rule.of(answers)[Signal.LOGITS],
    }
    return [Alternative(name, waited(call)) for name, call in pieces.items()]


def measure_case(case: Case, compute: Compute, seconds: float) -> dict[str, Any]:
    """Measure one case and print its tables."""
    method = cudfkd("pull_back", bn_weight=0.0, latent=64)
    rng = torch.Generator().manual_seed(0)
    bank = Bank(device=compute.device)
    bank.add(
        torch.randint(0, 256, (BANKED, *case.shape), dtype=torch.uint8, generator=rng),
        torch.randn(BANKED, CLASSES, generator=rng),
    )
    plain, ours = (
        PlainLoop(case, method, compute.device, bank),
        FedkdLoop(case, method, compute, bank),
    )

    def wait() -> None:
        if compute.device.type == "cuda":
            torch.cuda.synchronize()

    kind = str(compute.dtype).removeprefix("torch.")
    title = f"{case.teacher} -> {case.student}, {case.shape}, {case.batch} images, {kind}"
    differ = check_equal_losses(plain, ours, compute.dtype)

    def each(name: str) -> list[Alternative]:
        def call(way: PlainLoop | FedkdLoop) -> Callable[[], None]:
            def both() -> None:
                getattr(way, name)(rng)
                wait()

            return both

        return [Alternative("plain", call(plain)), Alternative("ours", call(ours))]

    # On a processor CPU time is what a step costs, whoever else computes there.
    of = "p10" if compute.device.type == "cuda" else "cpu"
    found: dict[str, Any] = {"case": title, "losses_differ_by": round(differ, 6)}
    for what, name in (("student", "student_step"), ("generator", "generator_step")):
        figures = measure_interleaved(each(name), seconds)
        print_table(f"{what} steps: {title}", TIMING_HEADER, timing_rows(figures, "ours"))
        found[f"{what}_steps_ratio"] = ratio(figures, "plain", "ours", of)
        found[f"{what}_steps_per_second"] = round(1 / figures["ours"].p10, 2)
    pieces = measure_interleaved(round_parts(ours, rng, wait), seconds / 2)
    print_table(
        f"where time goes: {title}",
        ("part", "ms"),
        [(name, f"{1e3 * figure.p10:.3g}") for name, figure in pieces.items()],
    )
    return found | {"parts_ms": {n: round(1e3 * f.p10, 4) for n, f in pieces.items()}}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.benchmarks.loop",
        description=(__doc__ or "").split("\n", 1)[0],
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes")
    parser.add_argument("--device", default="auto", help="cpu or cuda; cuda where there is any")
    parser.add_argument("--case", choices=CASES, help="one case [all for the device]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    compute = Compute.of(options.device, "auto")
    cuda = compute.device.type == "cuda"
    names = [options.case] if options.case else ["resnet"] if cuda else ["cnn-32", "cnn"]
    cases = [measure_case(CASES[n], compute, 2.0 if options.quick else 20.0) for n in names]
    if cuda:  # what the type of the products alone does not explain
        exact = Compute(compute.device, torch.float32)
        cases += [measure_case(CASES[n], exact, 2.0 if options.quick else 20.0) for n in names]
    name = torch.cuda.get_device_name() if cuda else "CPU, 1 thread"
    ratios = {of: cases[0][of] for of in ("student_steps_ratio", "generator_steps_ratio")}
    for case in cases:
        summary = ", ".join(f"{of} {case[of]:.2f}" for of in ratios)
        print(f"{case['case']} on {name}: {summary}")
    write_json({**ratios, "device": name, "cases": cases}, options.json)


if __name__ == "__main__":
    main()
