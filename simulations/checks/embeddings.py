"""Embeddings from relations: student, ensemble, teachers and controls in one table.

    python -m fedkd.simulations.checks.embeddings [--seeds 0,1,2] [--out DIR]

Runs `digits-embed` with either loss, and the control whose student learns the mean of the
institutions' features; a run for each seed. A run that is in DIR already is not made again.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedkd.experiment import load_experiment
from fedkd.simulations.checks.cached_run import run_cached

EXPERIMENT, MAIN = "digits-embed", "student, KL of softmaxes"
RUNS: Mapping[str, tuple[str, ...]] = {
    MAIN: (),
    "student, squared difference": ("method.loss=squared",),
    "control: student of the mean of features": (
        "method.form=asymmetric",
        'policy.signals=["features"]',
    ),
}
"""Name of a row -> overrides."""
Result = Mapping[str, Any]


def results_of(
    name: str, seeds: Sequence[int], overrides: Sequence[str], out: Path
) -> list[Result]:
    """What stands in ``result.json`` of the runs of one row, one for each seed."""
    found = []
    for seed in seeds:
        folder = out / f"{list(RUNS).index(name)}-{seed}"
        settings = [*overrides, *RUNS[name], f"seed={seed}"]
        run_cached(load_experiment(EXPERIMENT, settings), folder)
        found.append(json.loads((folder / "result.json").read_text()))
    return found


def rows(results: Mapping[str, Sequence[Result]]) -> dict[str, list[Mapping[str, Any]]]:
    """Scores of each row by seed: recall, and ``accuracy`` of groups where they were made."""
    found = {name: [each["student"] for each in own] for name, own in results.items()}
    for result in results[MAIN]:
        groups, controls = result["relations"]["groups"], result["relations"]["controls"]
        teachers = {each["name"]: each for each in result["teachers"]}
        own = {
            "ensemble, mean relation": {**result["ensemble"], **groups["mean relation"]},
            **{name: {**each, **groups[name]} for name, each in teachers.items()},
            **{
                f"control: {name}": {**each, **groups.get(name, {})}
                for name, each in controls.items()
            },
        }
        for name, scores in own.items():
            found.setdefault(name, []).append(scores)
    found[MAIN] = [
        {**each["student"], **each["relations"]["groups"]["student"]} for each in results[MAIN]
    ]
    return found


def line(name: str, scores: Sequence[Mapping[str, Any]]) -> str:
    """One row: mean and deviation of recall at 1 and 5 and of groups right, in percent."""
    texts = []
    for field in ("recall_at_1", "recall_at_5", "accuracy"):
        known = [100 * each[field] for each in scores if each.get(field) is not None]
        spread = statistics.stdev(known) if len(known) > 1 else 0.0
        texts.append(f"{statistics.mean(known):6.2f} ± {spread:4.2f}" if known else " " * 13)
    return f"{name:44}  {'  '.join(texts)}"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        "fedkd.simulations.checks.embeddings", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seeds", default="0,1,2", help="[0,1,2]")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--out", type=Path, help="folder of the runs; none: they are not kept")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    with tempfile.TemporaryDirectory(prefix="fedkd-embeddings-") as temporary:
        out = options.out or Path(temporary)
        found = rows({name: results_of(name, seeds, options.set, out) for name in RUNS})
    print(f"{'':44}  recall@1       recall@5       groups right")
    for name, scores in found.items():
        print(line(name, scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
