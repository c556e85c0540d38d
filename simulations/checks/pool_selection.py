"""Choice among public samples: what share of it is of each data set, and what students learn.

    python -m fedkd.simulations.checks.pool_selection --root FOLDER [--seeds 0,1,2] [--out DIR]

FOLDER has MNIST/raw and cifar10, as `digits-odsd` and `digits-kd3` expect. Eight rows, a run
for each seed; a run that is in DIR already is not made again.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkd.errors import DataError
from fedkd.experiment import load_experiment
from fedkd.simulations.checks.cached_run import run_cached

WANTED = "torchvision:MNIST"
"""The part of the pool that is no junk."""
ALONE = (f'images.public=["{WANTED}"]', "images.public_counts=[2000]")
"""A pool without junk: what a choice without mistakes would come to."""
ROWS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "odsd": ("digits-odsd", ()),
    "odsd, choice at random": ("digits-odsd", ("method.selection=random",)),
    "feddf": ("digits-odsd", ("method.name=feddf",)),
    "odsd, all of it MNIST": ("digits-odsd", ("method.selection=random", *ALONE)),
    "kd3": ("digits-kd3", ()),
    "kd3, no choice": ("digits-kd3", ("method.choice=all",)),
    "kd3, threshold reversed": ("digits-kd3", ("method.choice=reversed",)),
    "kd3, all of it MNIST": ("digits-kd3", ("method.choice=all", *ALONE)),
}
"""Name of a row -> experiment and overrides."""


@dataclass(frozen=True)
class Chosen:
    """What one run chose and learned."""

    accuracy: float
    """Of the last student, in [0, 1]."""
    asked: Mapping[str, int]
    """Samples asked about of each data set, the random first ones included."""

    def share(self, name: str) -> float:
        """Share of that data set among all that was asked."""
        return self.asked[name] / sum(self.asked.values())


def chosen_in(folder: Path, alone: bool = False) -> Chosen:
    """What the run in ``folder`` chose.

    Args:
        folder: of a finished run.
        alone: its pool was `ALONE`.

    Raises:
        DataError: it had no pool of several data sets, and not ``alone``.
    """
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    if alone:
        asked = {WANTED: int(result["teachers"][0]["samples_asked"])}
        return Chosen(float(result["student"]["accuracy"]), asked)
    events = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    counts = [event["public"] for event in events if event.get("public")]
    if not counts:
        raise DataError(f"{folder} chose among no data sets; run digits-odsd or digits-kd3")
    return Chosen(float(result["student"]["accuracy"]), counts[-1])


def row(name: str, seeds: Sequence[int], overrides: Sequence[str], out: Path) -> list[Chosen]:
    """The runs of one row of `ROWS`, one for each seed."""
    experiment, own = ROWS[name]
    found = []
    for seed in seeds:
        folder = out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
        settings = [*overrides, *own, f"seed={seed}"]
        run_cached(load_experiment(experiment, settings), folder)
        found.append(chosen_in(folder, alone=set(ALONE) <= set(own)))
    return found


def table(name: str, runs: Sequence[Chosen]) -> str:
    """One line: accuracy, mean and deviation in percent, and the share of the first data set."""
    first = next(iter(runs[0].asked))
    scores = [100 * each.accuracy for each in runs]
    shares = [100 * each.share(first) for each in runs]
    both = "  ".join(
        f"{statistics.mean(v):6.2f} ± {statistics.stdev(v) if len(v) > 1 else 0:5.2f}"
        for v in (scores, shares)
    )
    return f"{name:24}  {both}"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        "fedkd.simulations.checks.pool_selection", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--root", required=True, help="folder of the public images")
    parser.add_argument("--seeds", default="0,1,2", help="[0,1,2]")
    parser.add_argument("--rows", default=";".join(ROWS), help=f"[{';'.join(ROWS)}]")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--out", type=Path, help="folder of the runs; none: they are not kept")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    overrides = [*options.set, f"images.public_root={json.dumps(options.root)}"]
    with tempfile.TemporaryDirectory(prefix="fedkd-pool-") as temporary:
        lines = [f"{'':24}  student accuracy  share of the first data set"]
        for name in options.rows.split(";"):
            runs = row(name, seeds, overrides, options.out or Path(temporary))
            lines.append(table(name, runs))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
