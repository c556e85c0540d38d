"""SHA-256 digests of students: every method, experiment family and engine at a small budget.

    python -m fedkd.simulations.checks.golden [--out FILE] [--against FILE] [--skip-engines]

A change that only moves or renames code leaves every digest as it was: write them to a file before
the change, and compare afterwards. Digests hold on one machine with one release of each library,
so the repository has no file of them.

Each case is run twice where a generator is trained: at the learning rate of its experiment, and at
``HIGH_RATE``, since at small rates a wrong gradient hardly changes the rounded images.
"""

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fedkd.errors import FedkdError
from fedkd.experiment import Experiment, load_experiment
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.server.run.checkpoint import REPLIES
from fedkd.simulations.checks.resume import kill_and_resume
from fedkd.simulations.engines.environment_variables import set_environment_defaults
from fedkd.simulations.engines.local import LocalInstitutions
from fedkd.simulations.run import run

SMALL = (
    "questions.budget=640",
    "student.steps=100",
    "institutions.count=3",
    "institutions.epochs=2",
)
"""Of every case."""
HIGH_RATE = 0.02
BN = 'policy.signals=["logits","bn_gap"]'
PULL_BACK = "policy.pull_back=true"
PURE = ("method.bn_weight=0.0", PULL_BACK)


@dataclass(frozen=True)
class Case:
    """One run."""

    name: str
    experiment: str
    overrides: tuple[str, ...] = ()
    generator: bool = False
    """Whether to run it at ``HIGH_RATE`` too."""


METHODS = (
    Case("cudfkd", "digits-cudfkd", generator=True),
    Case("dafl", "digits-dafl", generator=True),
    Case("zskt", "digits-zskt", generator=True),
    Case("dfad", "digits-dfad", generator=True),
    Case("dfme", "digits-dfme", generator=True),
    Case("ta_dfkd", "digits-ta_dfkd", generator=True),
    Case("rdskd", "digits-rdskd", ("method.capture_interval=3",), generator=True),
    Case("dip_kd", "digits-dip_kd"),
    Case("deepinversion", "digits-deepinversion", ("method.steps_per_batch=3",), generator=True),
    Case("dfq", "digits-dfq", generator=True),
    Case("ddad", "digits-ddad", generator=True),
    Case("ideal", "digits-ideal", ("questions.batch=64",), generator=True),
    Case("disguide", "digits-disguide", generator=True),
    Case("pre_dfkd", "digits-pre_dfkd", ("questions.capacity=256",), generator=True),
    Case("fast_dfkd", "digits-fast_dfkd", ("method.steps_per_batch=3",), generator=True),
    Case("cmi", "digits-cmi", ("method.steps_per_batch=3",), generator=True),
    Case("hidfd", "digits-hidfd", generator=True),
    Case("dense", "digits-dense", ("method.steps_per_batch=3",), generator=True),
    Case("co_boosting", "digits-co_boosting", ("method.steps_per_batch=2",), generator=True),
    Case("zskd", "digits-zskd", ("method.steps_per_batch=3",), generator=True),
)
FAMILIES = (
    Case("digits", "digits"),
    Case("digits-evolved", "digits", ("method.evolved=0.5",)),
    Case("digits-capacity", "digits", ("questions.capacity=128",)),
    Case("digits-hard-curriculum", "digits", ("method.curriculum=hard",)),
    Case("digits-whole-batch", "digits", ("method.whole_batch=true",)),
    Case("digits-skewed", "digits-skewed"),
    Case("digits-ten", "digits-ten"),
    Case("digits-noise", "digits-noise"),
    Case("digits-mixed", "digits-mixed", ("institutions.count=5",)),
    Case("digits-labels", "digits-labels", ("institutions.count=5", "questions.budget=640")),
    Case(
        "digits-labels-counts",
        "digits-labels",
        ("institutions.count=5", "questions.rule=counted_probabilities"),
    ),
    Case("digits-warped", "digits", ("images.warp=0.5", "images.mix=0.5", "student.shift=1")),
    Case("digits-rule", "digits", ("questions.rule=confidence_weighted",)),
    Case("digits-top-k", "digits", ("policy.top_k=3", "policy.class_counts=false")),
    Case("digits-pullback", "digits-pullback", generator=True),
)
VARIANTS = (
    Case("cudfkd-straight", "digits-cudfkd", (*PURE, "method.gradient=straight_through"), True),
    Case(
        "cudfkd-differences", "digits-cudfkd", (*PURE, "method.gradient=finite_differences"), True
    ),
    Case(
        "cudfkd-student",
        "digits-cudfkd",
        (*PURE, "method.gradient=student", "method.adversarial_stop=0.0"),
        True,
    ),
    Case("cudfkd-early", "digits-pullback", ("method.ramp_begin=0.0", "method.evolved=0.3"), True),
    Case("dafl-student", "digits-dafl", ("method.gradient=student",), True),
    Case("dfme-three", "digits-dfme", ("method.directions=3",), True),
    Case(
        "rdskd-differences",
        "digits-rdskd",
        ("method.capture_interval=3", "method.gradient=finite_differences"),
        True,
    ),
    Case("hidfd-differences", "digits-hidfd", ("method.gradient=finite_differences",), True),
    Case("hidfd-critic-alone", "digits-hidfd", ("method.frequency_weight=0.0",), True),
    Case("pre_dfkd-differences", "digits-pre_dfkd", ("method.gradient=finite_differences",), True),
    Case(
        "fast_dfkd-reptile",
        "digits-fast_dfkd",
        ("method.meta_update=reptile", "method.steps_per_batch=3"),
        True,
    ),
    Case(
        "ideal-warm",
        "digits-ideal",
        ("questions.batch=64", "method.warm_up=0.3", "method.generated=0.5"),
        True,
    ),
    Case("disguide-three", "digits-disguide", ("method.students=3",), True),
    Case(
        "adaptive-deepinversion",
        "digits-deepinversion",
        ("method.steps_per_batch=3", "method.adversarial_weight=1.0"),
        True,
    ),
    Case(
        "dense-jitter",
        "digits-dense",
        ("method.steps_per_batch=3", "method.jitter=0.125", "method.flips=true"),
        True,
    ),
    Case(
        "co_boosting-labels",
        "digits-co_boosting",
        ("method.steps_per_batch=2", "method.warm_up=0.2", "questions.capacity=256"),
        True,
    ),
)


def digest_of(student: nn.Module, *further: Tensor) -> str:
    """SHA-256 of the weights by name, and of ``further`` tensors, as hexadecimal digits."""
    state = sorted(student.state_dict().items())
    sha = hashlib.sha256()
    for name, tensor in [*state, *((str(i), tensor) for i, tensor in enumerate(further))]:
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def distilled(experiment: Experiment, vaults: Path) -> tuple[str, str]:
    """Digests of the student, and of all banked samples and targets, of one run in this process."""
    torch.set_num_threads(experiment.student.threads)
    local = LocalInstitutions(experiment, vaults, lambda count: None)
    parts = ingredients(experiment, local.cards)
    outcome = Coordinator(parts, list(local.cards), local.answer).finish()
    return digest_of(outcome.student), digest_of(nn.Module(), *outcome.bank.history())


def cases(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and digests of every case in this process, one after the other."""
    for case in (*METHODS, *FAMILIES, *VARIANTS):
        rates: list[tuple[str, tuple[str, ...]]] = [("", ())]
        if case.generator:
            rates.append(("@high", (f"method.generator_rate={HIGH_RATE}",)))
        for suffix, rate in rates:
            experiment = load_experiment(case.experiment, (*SMALL, *case.overrides, *rate))
            teachers = f"{experiment.institutions.model_dump_json()}"
            vaults = folder / hashlib.sha256(teachers.encode()).hexdigest()[:16]
            try:
                student, bank = distilled(experiment, vaults)
                yield case.name + suffix, f"{student} {bank}"
            except FedkdError as error:
                yield case.name + suffix, f"{type(error).__name__}"


def engines(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and digest of the demo in each engine, replayed, and killed and resumed."""
    experiment = load_experiment("digits", SMALL)
    written = "student.safetensors"
    for name in ("local", "simulation"):
        run(experiment, name, folder / name, record=name == "local")
        yield f"engine-{name}", _file_digest(folder / name / written)
    assert (folder / "local" / REPLIES).exists()
    run(experiment, "local", folder / "replay", replay=folder / "local")
    yield "engine-replay", _file_digest(folder / "replay" / written)
    command_line = ["digits", "--checkpoint", "0.5", *(w for s in SMALL for w in ("--set", s))]
    trials = list(kill_and_resume(command_line, folder / "resumed", kills=2, kills_per_run=2))
    same = all(trial.same_student and trial.same_events for trial in trials)
    yield (
        "engine-resume",
        f"{_file_digest(folder / 'resumed' / 'whole' / written)} {'same' if same else 'DIFFERS'}",
    )


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0 unless ``--against`` names a file with other digests."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.checks.golden", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, help="file for the digests")
    parser.add_argument("--against", type=Path, help="file of digests to compare with")
    parser.add_argument("--skip-engines", action="store_true", help="cases in one process only")
    options = parser.parse_args(arguments)
    set_environment_defaults()
    before = {}
    if options.against is not None:
        lines = options.against.read_text().splitlines()
        before = dict(line.split(maxsplit=1) for line in lines)
    differing, lines = 0, []
    with tempfile.TemporaryDirectory(prefix="fedkd-golden-") as name:
        folder = Path(name)
        (folder / "resumed").mkdir()
        found = cases(folder)
        for source in (found,) if options.skip_engines else (found, engines(folder)):
            for case, digests in source:
                lines.append(f"{case} {digests}")
                expected = before.get(case)
                comparison = (
                    "" if expected is None else "same " if expected == digests else "DIFFERS "
                )
                differing += comparison == "DIFFERS "
                short = " ".join(word[:16] for word in digests.split())
                print(f"{case:<26}{comparison}{short}", flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")
    if before:
        print(f"{differing} of {len(lines)} digests differ")
    return min(differing, 1)


if __name__ == "__main__":
    sys.exit(main())
