"""Kill runs at random moments and resume them: is the student the same as without kills?

    python -m fedkd.simulations.checks.resume [EXPERIMENT] [--kills N] [--json FILE]
        [--set KEY=VALUE ...]

The reference run is not killed. The others are killed by SIGKILL, a few times each, and resumed
until they end; there are as many of them as the kills need.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedkd.process.plural import counted
from fedkd.server.report.records.loop_events import loop_events
from fedkd.simulations import cli
from fedkd.simulations.engines.environment_variables import set_environment_defaults

FORKSERVER = multiprocessing.get_context("forkserver")
"""Processes start with everything imported, so that kills hit the run and not its start."""
_PRELOADED = (
    *("fedkd.simulations.run", "sklearn.datasets", "sklearn.linear_model"),
    # What the optimiser, and the export to ONNX at the end, import at first use.
    *("torch._dynamo", "torch._inductor", "torch._functorch.partitioners"),
    *("onnxscript.function_libs.torch_lib.ops", "onnxruntime"),
)
"""What a run imports, at its start or on its way; a name that is no more is passed over."""
RUN_TIMEOUT = 3600.0
"""Seconds that one process of a run may take."""
MISSES = 10
"""Runs in a row that may end before they are killed."""


@dataclass(frozen=True)
class Trial:
    """One run that was killed and resumed until it ended."""

    kills: int
    same_student: bool
    """Whether its student equals that of the reference run, byte for byte."""
    same_events: bool
    """Whether the loop recorded the same events, whenever they happened."""
    same_traffic: bool
    """Whether each institution was asked the same number of samples."""
    resumed: int
    """Number of resumptions in its result."""


def kill_and_resume(
    command_line: Sequence[str], folder: Path, kills: int, kills_per_run: int = 4, seed: int = 0
) -> Iterator[Trial]:
    """Compare runs that are killed and resumed with one that is not.

    Args:
        command_line: of ``fedkd run``, without its folder.
        folder: of the runs; empty at first.
        kills: in all runs, > 0; that many happen.
        kills_per_run: most kills of one run.
        seed: of the moments.

    Raises:
        RuntimeError: a run failed, or runs end before they can be killed.
    """
    rng = random.Random(seed)
    prepare_forkserver()
    reference = folder / "whole"
    if _run_for(["run", *command_line, "--out", str(reference)], folder / "log", RUN_TIMEOUT):
        raise RuntimeError("the reference run did not end")
    seconds = float(json.loads((reference / "result.json").read_text())["seconds"])
    number = misses = 0
    while kills > 0:
        number += 1
        trial = _trial(
            command_line,
            folder / f"run-{number}",
            reference,
            min(kills, kills_per_run),
            seconds,
            rng,
        )
        kills -= trial.kills
        yield trial
        misses = 0 if trial.kills else misses + 1
        if misses == MISSES:
            raise RuntimeError(f"{MISSES} runs in a row ended before they were killed")
        if misses:  # the reference run also trained the teachers, which are found again
            seconds /= 2


def prepare_forkserver() -> None:
    """Say what `FORKSERVER` imports; to be called before its first process."""
    set_environment_defaults()
    FORKSERVER.set_forkserver_preload(list(_PRELOADED))


def _trial(
    command_line: Sequence[str],
    out: Path,
    reference: Path,
    kills: int,
    seconds: float,
    rng: random.Random,
) -> Trial:
    killed = 0
    while not (out / "report.html").exists() or (out / "checkpoint").exists():
        started = (out / "experiment.json").exists()
        command = (
            ["run", "--resume", str(out)] if started else ["run", *command_line, "--out", str(out)]
        )
        wait = rng.uniform(0.0, seconds) if killed < kills else RUN_TIMEOUT
        killed += _run_for(command, out.parent / "log", wait)
    result, reference_result = (
        json.loads((p / "result.json").read_text()) for p in (out, reference)
    )
    students = [(path / "student.safetensors").read_bytes() for path in (out, reference)]
    return Trial(
        killed,
        students[0] == students[1],
        loop_events(out) == loop_events(reference),
        _traffic(result) == _traffic(reference_result),
        result["resumed"],
    )


def _run_for(command_line: Sequence[str], log: Path, seconds: float) -> bool:
    """Run a command for at most ``seconds``; returns whether it was killed then."""
    process = FORKSERVER.Process(target=_run_command, args=(tuple(command_line), log))
    process.start()
    process.join(seconds)
    killed = process.exitcode is None
    process.kill()
    process.join()
    if not killed and process.exitcode != 0:
        raise RuntimeError(f"`fedkd {' '.join(command_line)}` failed: {log.read_text().strip()}")
    return killed


def _run_command(command_line: Sequence[str], log: Path) -> None:
    """Run the command line, in a process of its own."""
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["fedkd", *command_line]
    cli.main()


def _traffic(result: dict[str, Any]) -> list[tuple[int, int, int]]:
    counted = ("samples_asked", "samples_pulled_back", "refusals")
    return [tuple(t[name] for name in counted) for t in result["teachers"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0 if there were all kills, and every student was the same."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.checks.resume", description=__doc__.split("\n")[0]
    )
    parser.add_argument("experiment", nargs="?", default="digits", help=".toml file, or a name")
    parser.add_argument("--kills", type=int, default=20, help="in all runs together [20]")
    parser.add_argument("--each", type=int, default=4, help="most kills of one run [4]")
    parser.add_argument("--engine", default="local", help="local or simulation [local]")
    parser.add_argument("--checkpoint", default="2", help="seconds between checkpoints [2]")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments [0]")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    if options.kills < 1 or options.each < 1:
        parser.error("--kills and --each must be 1 or more")
    command_line = [
        options.experiment,
        "--engine",
        options.engine,
        "--checkpoint",
        options.checkpoint,
    ]
    command_line += [word for assignment in options.set for word in ("--set", assignment)]
    trials, failure = [], ""
    with tempfile.TemporaryDirectory(prefix="fedkd-resume-") as folder:
        try:
            for trial in kill_and_resume(
                command_line, Path(folder), options.kills, options.each, options.seed
            ):
                trials.append(trial)
                print(f"killed {counted(trial.kills, 'time')}: {trial}", flush=True)
        except RuntimeError as error:
            failure = str(error)
    same = sum(trial.same_student for trial in trials)
    kills = sum(trial.kills for trial in trials)
    print(
        f"{same} of {counted(len(trials), 'student is', 'students are')} the same, bit for bit, "
        f"after {counted(kills, 'kill')}"
    )
    if failure:
        print(f"fedkd: {kills} of {options.kills} kills happened: {failure}", file=sys.stderr)
    if options.json is not None:
        trials_json = [asdict(trial) for trial in trials]
        figures = {
            "kills": kills,
            "runs": len(trials),
            "same_students": same,
            "trials": trials_json,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if same == len(trials) and not failure else 1


if __name__ == "__main__":
    sys.exit(main())
