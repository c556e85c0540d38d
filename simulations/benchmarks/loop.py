"""How fast student and generator learn, beside the loop that anybody would write. Knows no wire.

    python -m fedkd.simulations.benchmarks.loop [--device cuda] [--quick] [--json FILE]

Both do the same mathematics: from the same weights, on the same images, they come to the same
losses, which is looked at first. The plain loop keeps its data as a list of images, picks and
stacks them one by one as a DataLoader does, and computes in float32 with weights and images in
PyTorch's own order (NCHW); its generator step differentiates student and teachers in one piece, in
one process. Ours learns from the bank and, in a generator step, asks and pulls back as it would
ask institutions, so that teachers see each batch twice. Neither has a network in between.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fedkd.synthesis.sources import to_bytes
from torch import Tensor

from fedkd.aggregation.fusion import fusion
from fedkd.core.bank import Bank
from fedkd.core.compute import Compute
from fedkd.core.plan import Plan
from fedkd.methods import Method, cudfkd
from fedkd.models.generators import Generator
from fedkd.models.in_process_teachers import InProcess
from fedkd.models.networks import build
from fedkd.procedural.priors import prior
from fedkd.protocol.label_spaces import Labels
from fedkd.protocol.signals import Ask, Signal
from fedkd.simulations.benchmarks.measure import (
    HEAD,
    Way,
    ratio,
    rows_of,
    show,
    side_by_side,
    write,
)
from fedkd.student.training import Learner
from fedkd.synthesis.generator_training import Heard, Invention

CLASSES, BANKED, PROGRESS = 10, 4096, 0.5
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Most by which losses may differ, as a share; the same sums in another order do."""


@dataclass(frozen=True)
class Case:
    """Networks, images and how many of them in a step."""

    teacher: str
    student: str
    shape: tuple[int, int, int]
    batch: int


CASES = {
    "cnn": Case("cnn", "cnn", (1, 8, 8), 128),
    "cnn-32": Case("cnn", "cnn", (3, 32, 32), 128),
    "resnet": Case("resnet34", "resnet18", (3, 32, 32), 512),
}


class Plain:
    """The loop that anybody would write."""

    def __init__(self, case: Case, method: Method, device: torch.device, bank: Bank) -> None:
        self.method, self.device, self.case = method, device, case
        images, targets = bank.images.cpu(), bank.targets.cpu()
        self.data = [(images[i], targets[i]) for i in range(len(bank))]
        self.student = build(case.student, CLASSES, case.shape, 1).to(device)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=2e-3, weight_decay=0.0)
        self.teacher = build(case.teacher, CLASSES, case.shape, 0).to(device).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.generator = Generator(method.latent, case.shape).to(device)
        self.improver = torch.optim.Adam(self.generator.parameters(), 1e-3, (0.9, 0.99))

    def learn(self, rng: torch.Generator) -> Tensor:
        """A student step; the loss of each image."""
        picked = torch.randint(len(self.data), (self.case.batch,), generator=rng).tolist()
        images = torch.stack([self.data[i][0] for i in picked]).to(self.device)
        targets = torch.stack([self.data[i][1] for i in picked]).to(self.device)
        self.student.train()
        loss = self.method.imitation(self.student(images.float() / 255), targets)
        weight = self.method.curriculum.weights(loss, PROGRESS)
        self.optimizer.zero_grad()
        torch.autograd.backward((weight * loss).mean())
        self.optimizer.step()
        return loss.detach()

    def invent(self, rng: torch.Generator) -> list[float]:
        """A generator step; the values of its terms."""
        self.student.eval()
        z = torch.randn(self.case.batch, self.method.latent, generator=rng).to(self.device)
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


class Ours:
    """The parts that the loop is made of."""

    def __init__(self, case: Case, method: Method, compute: Compute, bank: Bank) -> None:
        self.method, self.case, self.bank = method, case, bank
        plan = Plan(budget=1, batch=1, steps=10_000, student_batch=case.batch)
        self.learner = Learner(build(case.student, CLASSES, case.shape, 1), method, plan, compute)
        # After the warm-up of a run and long before its end the rate is what the plan says.
        self.taken = plan.steps // 50
        teacher = build(case.teacher, CLASSES, case.shape, 0).to(compute.device)
        self.teachers = InProcess({"t": teacher}, case.shape, CLASSES)
        self.invention = Invention(
            *(method, self.learner.network, case.shape, 0, case.batch, CLASSES, compute)
        )

    def learn(self, rng: torch.Generator) -> Tensor:
        """A student step; the loss of each image."""
        return self.learner.step(self.bank, rng, self.taken, PROGRESS)[0]

    def invent(self, rng: torch.Generator) -> list[float]:
        """A generator step; the values of its terms."""
        drawn = self.invention.source.draw(self.case.batch, rng)
        images = to_bytes(drawn.images)
        answers = self.teachers.answer(Ask(images, self.method.needs, exact=True))
        cards = self.teachers.cards
        heard = Heard(
            *(drawn, images, answers, None),
            *(Labels.of(cards), fusion("mean_logits", cards), PROGRESS),
        )
        step = self.invention.improve(heard, 0, rng)
        try:
            request = next(step)
            while True:
                request = step.send(self.teachers.answer(request))
        except StopIteration as stop:
            return list(stop.value.terms.values())


def agree(plain: Plain, ours: Ours, dtype: torch.dtype) -> float:
    """The most by which losses of a few steps differ, as a share.

    Raises:
        RuntimeError: it is more than rounding explains.
    """
    most = 0.0
    for step in range(3):
        one, other = (torch.Generator().manual_seed(step) for _ in "ab")
        a, b = plain.learn(one).mean(), ours.learn(other).mean()
        most = max(most, float((a - b).abs() / a))
        g, h = (torch.tensor(way.invent(r)) for way, r in ((plain, one), (ours, other)))
        most = max(most, float(((g - h).abs() / g.abs().clamp_min(1.0)).max()))
    if most > TOLERANCE[dtype]:
        raise RuntimeError(f"the two loops differ by {most:.2%}; they do not do the same")
    return most


def parts(ours: Ours, rng: torch.Generator, wait: Callable[[], None]) -> list[Way]:
    """What a round is made of, each piece alone."""
    case, learner, bank = ours.case, ours.learner, ours.bank
    images, targets = bank.draw(case.batch, rng)
    memory = images.cpu()
    answers = ours.teachers.answer(Ask(memory))
    rule, painted = fusion("mean_logits", ours.teachers.cards), prior("pink")
    pixels, kept = learner.compute.pixels(images), Bank(BANKED, bank.device)

    def forward() -> Tensor:
        return ours.method.imitation(learner.compute.say(learner.network, images), targets)

    def waited(call: Callable[[], object]) -> Callable[[], None]:
        def both() -> None:
            call()
            wait()

        return both

    pieces: dict[str, Callable[[], object]] = {
        "bank: draw a batch": lambda: bank.draw(case.batch, rng),
        "bytes to floats": lambda: learner.compute.pixels(images),
        "student: forward, loss": forward,
        "student: forward, loss, backward": lambda: torch.autograd.backward(forward().mean()),
        "student: optimiser": learner.optimizer.step,
        "generator: paint": lambda: ours.invention.source.draw(case.batch, rng),
        "floats to bytes": lambda: to_bytes(pixels),
        "prior pink: paint": lambda: painted.draw(case.batch, case.shape, rng),
        "bank: which are new": lambda: bank.fresh(memory),
        "bank: add": lambda: kept.add(memory, targets),
        "teacher: answer": lambda: ours.teachers.answer(Ask(memory)),
        "fuse answers": lambda: rule.of(answers)[Signal.LOGITS],
    }
    return [Way(name, waited(call)) for name, call in pieces.items()]


def measured(case: Case, compute: Compute, seconds: float) -> dict[str, Any]:
    """Figures of one case, which are also shown."""
    method = cudfkd("pull_back", bn_weight=0.0, latent=64)
    rng = torch.Generator().manual_seed(0)
    bank = Bank(device=compute.device)
    bank.add(
        torch.randint(0, 256, (BANKED, *case.shape), dtype=torch.uint8, generator=rng),
        torch.randn(BANKED, CLASSES, generator=rng),
    )
    plain, ours = Plain(case, method, compute.device, bank), Ours(case, method, compute, bank)

    def wait() -> None:
        if compute.device.type == "cuda":
            torch.cuda.synchronize()

    kind = str(compute.dtype).removeprefix("torch.")
    title = f"{case.teacher} -> {case.student}, {case.shape}, {case.batch} images, {kind}"
    differ = agree(plain, ours, compute.dtype)

    def each(name: str) -> list[Way]:
        def call(way: Plain | Ours) -> Callable[[], None]:
            def both() -> None:
                getattr(way, name)(rng)
                wait()

            return both

        return [Way("plain", call(plain)), Way("ours", call(ours))]

    # On a processor CPU time is what a step costs, whoever else computes there.
    of = "p10" if compute.device.type == "cuda" else "cpu"
    found: dict[str, Any] = {"case": title, "losses_differ_by": round(differ, 6)}
    for what, name in (("student", "learn"), ("generator", "invent")):
        figures = side_by_side(each(name), seconds)
        show(f"{what} steps: {title}", HEAD, rows_of(figures, "ours"))
        found[f"{what}_steps_ratio"] = ratio(figures, "plain", "ours", of)
        found[f"{what}_steps_per_second"] = round(1 / figures["ours"].p10, 2)
    pieces = side_by_side(parts(ours, rng, wait), seconds / 2)
    show(
        f"where time goes: {title}",
        ("part", "ms"),
        [(name, f"{1e3 * figure.p10:.3g}") for name, figure in pieces.items()],
    )
    return found | {"parts_ms": {n: round(1e3 * f.p10, 4) for n, f in pieces.items()}}


def main() -> None:
    """Measure, show, and leave what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="leave the figures there")
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes")
    parser.add_argument("--device", default="auto", help="cpu or cuda; cuda where there is any")
    parser.add_argument("--case", choices=CASES, help="one alone; all that suit the device else")
    told = parser.parse_args()
    torch.set_num_threads(1)
    compute = Compute.of(told.device, "auto")
    cuda = compute.device.type == "cuda"
    names = [told.case] if told.case else ["resnet"] if cuda else ["cnn-32", "cnn"]
    cases = [measured(CASES[n], compute, 2.0 if told.quick else 20.0) for n in names]
    if cuda:  # what the type of the products alone does not explain
        exact = Compute(compute.device, torch.float32)
        cases += [measured(CASES[n], exact, 2.0 if told.quick else 20.0) for n in names]
    name = torch.cuda.get_device_name() if cuda else "CPU, 1 thread"
    ratios = {of: cases[0][of] for of in ("student_steps_ratio", "generator_steps_ratio")}
    for case in cases:
        told_of = ", ".join(f"{of} {case[of]:.2f}" for of in ratios)
        print(f"{case['case']} on {name}: {told_of}")
    write({**ratios, "device": name, "cases": cases}, told.json)


if __name__ == "__main__":
    main()
