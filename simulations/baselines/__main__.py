"""Yardsticks beside an experiment, on its very partition, network and test images.

    python -m fedkd.simulations.baselines mnist --set institutions.root=FOLDER
        --public parquet:cifar10 [--rounds 100] [--epsilon 3] [--only NAME,NAME] [--json FILE]

Rows: central training; Flower's FedAvg over many rounds, with DP-SGD, and over one round; FedDF on
public images; the experiment itself. Every row is written to --json once it is done, and a row that
stands there is not run again: a long table resumes. Federated averaging keeps its weights beside
that file after each round, and goes on from there.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fedkd.errors import FedkdError, SettingsError
from fedkd.experiment import load_experiment
from fedkd.simulations.baselines.distillation import (
    local_networks,
    public_images,
    run_feddf,
    run_fedkd,
    train_centrally,
)
from fedkd.simulations.baselines.federation import Federation, Row, check_private, federation_of
from fedkd.simulations.engines.environment_variables import set_environment_defaults
from fedkd.simulations.engines.flower_simulation import flower_runtime

ROWS = ("central", "fedavg", "fedavg-dp", "once", "fedkd")
"""What --only takes; ``once`` are FedAvg and FedDF over one round."""


def main() -> int:
    """Entry point."""
    options = _arguments()
    set_environment_defaults()  # Flower reads them as it is imported
    try:
        return _run(options)
    except FedkdError as error:
        print(f"baselines: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    """All rows that are not there yet, and the table.

    Raises:
        FedkdError: settings that no baseline can be trained by, or rows of others.
    """
    experiment = load_experiment(options.experiment, options.set)
    torch.set_num_threads(experiment.student.threads)
    settings = experiment.model_dump_json()
    federation = federation_of(settings)
    of = _settings_of_rows(options, settings)
    done = _read(options.json, of)
    if "fedavg-dp" in options.only.split(","):
        check_private(federation.network())
    ways = _ways(options, settings, federation)
    for name in options.only.split(","):
        if name in done:
            continue
        began = time.monotonic()
        done[name] = [asdict(row) for row in ways[name]()]
        print(f"\r{name}: {time.monotonic() - began:.0f} s{' ' * 40}", file=sys.stderr)
        if options.json is not None:
            options.json.write_text(json.dumps({"of": of, "rows": done}, indent=2) + "\n")
    _print_table([Row(**row) for name in options.only.split(",") for row in done[name]])
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "fedkd.simulations.baselines", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("experiment", nargs="?", default="digits", help="[digits]")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--rounds", type=int, default=100, help="of FedAvg [100]")
    parser.add_argument("--private-rounds", type=int, default=20, help="with DP-SGD [20]")
    parser.add_argument("--epochs", type=int, default=1, help="of local training, each round [1]")
    parser.add_argument("--epsilon", type=float, default=3.0, help="of every institution [3]")
    parser.add_argument("--public", help="data set of FedDF's public images, as institutions.data")
    parser.add_argument("--public-root", help="its folder [institutions.root]")
    parser.add_argument("--only", default=",".join(ROWS), help=f"[{','.join(ROWS)}]")
    parser.add_argument("--json", type=Path, help="write rows to this file, and go on from it")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(ROWS):
        parser.error(f"unknown row {', '.join(sorted(unknown))}; choose of {', '.join(ROWS)}")
    if "once" in options.only.split(",") and options.public is None:
        parser.error("FedDF needs public images: --public, or --only without once")
    return options


def _ways(
    options: argparse.Namespace, settings: str, federation: Federation
) -> Mapping[str, Callable[[], list[Row]]]:
    """By name, what makes the rows."""
    i = federation.experiment.institutions
    count = len(federation.parts)
    root, budget = options.public_root or i.root, federation.experiment.questions.budget
    public = torch.empty(0)
    if "once" in options.only.split(","):  # a wrong name ends it before anything is trained
        public = public_images(options.public, root, federation.data.shape, budget)

    def averaged(row: str, name: str, rounds: int, epsilon: float) -> list[Row]:
        with flower_runtime():
            from fedkd.simulations.baselines.fedavg import run_fedavg

            told = _counter("round", rounds)
            kept = options.json and options.json.with_suffix(f".{row}.safetensors")
            epochs = options.epochs
            return [run_fedavg(name, settings, rounds, epochs, told, epsilon, checkpoint=kept)]

    def once() -> list[Row]:
        began = time.monotonic()
        networks = local_networks(federation, i.epochs, _counter("institution", count))
        steps = federation.experiment.student.steps
        return run_feddf(federation, networks, public, steps, time.monotonic() - began)

    def fedkd() -> list[Row]:
        with tempfile.TemporaryDirectory(prefix="fedkd-baselines-") as folder:
            return [run_fedkd(federation, Path(folder), _counter("institution", count))]

    plain = f"FedAvg, {options.rounds} rounds"
    private = f"FedAvg, {options.private_rounds} rounds, DP-SGD"
    return {
        "central": lambda: [train_centrally(federation, i.epochs)],
        "fedavg": lambda: averaged("fedavg", plain, options.rounds, 0.0),
        "fedavg-dp": lambda: averaged(
            "fedavg-dp", private, options.private_rounds, options.epsilon
        ),
        "once": once,
        "fedkd": fedkd,
    }


def _counter(what: str, total: int) -> Callable[..., None]:
    """Shows how far it has come, and the time left."""
    began = time.monotonic()

    def told(number: int, accuracy: float | None = None) -> None:
        spent = time.monotonic() - began
        left = f", {spent / number * (total - number):.0f} s left" if number else ""
        score = f", accuracy {100 * accuracy:.2f} %" if accuracy is not None else ""
        print(f"\r{what} {number} of {total}{score}{left}   ", end="", file=sys.stderr, flush=True)

    return told


def _settings_of_rows(options: argparse.Namespace, settings: str) -> dict[str, Any]:
    """All that rows depend on."""
    names = ("rounds", "private_rounds", "epochs", "epsilon", "public", "public_root")
    return {
        "experiment": json.loads(settings),
        **{name: getattr(options, name) for name in names},
    }


def _read(path: Path | None, of: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows of an earlier call.

    Raises:
        SettingsError: they are of other settings.
    """
    if path is None or not path.is_file():
        return {}
    found = json.loads(path.read_text())
    if found.get("of") != of:
        raise SettingsError(f"{path} has rows of other settings; give another --json, or theirs")
    rows: dict[str, list[dict[str, Any]]] = found["rows"]
    return rows


def _print_table(rows: list[Row]) -> None:
    width = max(len(row.name) for row in rows)
    print(f"{'':{width}}  accuracy  rounds  megabytes  seconds  epsilon  the coordinator sees")
    for row in rows:
        epsilon = "-" if row.epsilon is None else f"{row.epsilon:g}"
        print(
            f"{row.name:{width}}  {100 * row.accuracy:7.2f}%  {row.rounds:6d}  "
            f"{row.bytes_sent / 1e6:9.1f}  {row.seconds:7.0f}  {epsilon:>7}  {row.sees}"
        )


if __name__ == "__main__":
    sys.exit(main())
