"""Kills a run at random moments and resumes it: does the same student come of it? Knows no loop.

    python -m fedkd.simulations.checks.resume [EXPERIMENT] [--kills N] [--json FILE] [--set KEY=VALUE ...]

One run is left alone. Others are killed by SIGKILL, a few times each, and resumed until they end.
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

from fedkd.simulations import cli
from fedkd.simulations.engines.environment_variables import set_environment_defaults

FORKS = multiprocessing.get_context("forkserver")
"""Lives begin with everything imported: a moment is one of the run, and not of its start."""
LEFT = ("student.safetensors", "events.jsonl")
"""Files that must be the same, byte for byte."""
LONGEST = 3600.0
"""Seconds that one life of a run may take."""


@dataclass(frozen=True)
class Trial:
    """One run that was killed and resumed until it ended."""

    kills: int
    same_student: bool
    """Whether its student is that of the run that was left alone, byte for byte."""
    same_events: bool
    same_traffic: bool
    """Whether as many samples were asked of each institution."""
    resumed: int
    """As its result says."""


def survive(
    words: Sequence[str], folder: Path, kills: int, each: int = 4, seed: int = 0
) -> Iterator[Trial]:
    """Runs that were killed, beside one that was not.

    Args:
        words: of ``fedkd run``, without its folder.
        folder: where runs are left; empty.
        kills: > 0 in all.
        each: most of one run.
        seed: of the moments.

    Raises:
        RuntimeError: a run ended otherwise than it should.
    """
    rng = random.Random(seed)
    set_environment_defaults()
    FORKS.set_forkserver_preload(["fedkd.simulations.run"])
    whole = folder / "whole"
    if _live(["run", *words, "--out", str(whole)], folder / "log", LONGEST):
        raise RuntimeError("the run that was left alone did not end")
    seconds = float(json.loads((whole / "result.json").read_text())["seconds"])
    number = 0
    while kills > 0:
        number += 1
        trial = _trial(words, folder / f"run-{number}", whole, min(kills, each), seconds, rng)
        kills -= max(1, trial.kills)
        yield trial


def _trial(
    words: Sequence[str], out: Path, whole: Path, kills: int, seconds: float, rng: random.Random
) -> Trial:
    done = 0
    while not (out / "report.html").exists() or (out / "checkpoint").exists():
        begun = (out / "experiment.json").exists()
        command = ["run", "--resume", str(out)] if begun else ["run", *words, "--out", str(out)]
        wait = rng.uniform(0.0, seconds) if done < kills else LONGEST
        done += _live(command, out.parent / "log", wait)
    ours, theirs = (json.loads((p / "result.json").read_text()) for p in (out, whole))
    same = {name: (out / name).read_bytes() == (whole / name).read_bytes() for name in LEFT}
    return Trial(
        done,
        same["student.safetensors"],
        same["events.jsonl"],
        _traffic(ours) == _traffic(theirs),
        ours["resumed"],
    )


def _live(words: Sequence[str], log: Path, seconds: float) -> bool:
    """Run a command for so long; whether it had to be killed then."""
    process = FORKS.Process(target=_type, args=(tuple(words), log))
    process.start()
    process.join(seconds)
    killed = process.exitcode is None
    process.kill()
    process.join()
    if not killed and process.exitcode != 0:
        raise RuntimeError(f"`fedkd {' '.join(words)}` failed: {log.read_text().strip()}")
    return killed


def _type(words: Sequence[str], log: Path) -> None:
    """One life: the command, as it is typed. In a process of its own."""
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["fedkd", *words]
    cli.main()


def _traffic(result: dict[str, Any]) -> list[tuple[int, int, int]]:
    counted = ("samples_asked", "samples_pulled_back", "refusals")
    return [tuple(t[name] for name in counted) for t in result["teachers"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; exit status 0 if every student was the same."""
    parser = argparse.ArgumentParser(
        "fedkd.simulations.checks.resume", description=__doc__.split("\n")[0]
    )
    parser.add_argument("experiment", nargs="?", default="digits", help=".toml file, or a name")
    parser.add_argument("--kills", type=int, default=20, help="of all runs together [20]")
    parser.add_argument("--each", type=int, default=4, help="most kills of one run [4]")
    parser.add_argument("--engine", default="local", help="local or simulation [local]")
    parser.add_argument("--checkpoint", default="2", help="seconds between states [2]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    words = [given.experiment, "--engine", given.engine, "--checkpoint", given.checkpoint]
    words += [word for assignment in given.set for word in ("--set", assignment)]
    with tempfile.TemporaryDirectory(prefix="fedkd-resume-") as folder:
        trials = []
        for trial in survive(words, Path(folder), given.kills, given.each, given.seed):
            trials.append(trial)
            print(f"killed {trial.kills} times: {trial}", flush=True)
    same = sum(trial.same_student for trial in trials)
    kills = sum(trial.kills for trial in trials)
    print(f"{same} of {len(trials)} students are the same, bit for bit, after {kills} kills")
    if given.json is not None:
        each = [asdict(trial) for trial in trials]
        figures = {"kills": kills, "runs": len(trials), "same_students": same, "trials": each}
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if same == len(trials) else 1


if __name__ == "__main__":
    sys.exit(main())
