"""Baselines beside an experiment, on its very partition, network and test images.

    python -m fedkd.simulations.baselines mnist --set institutions.root=FOLDER
        --public parquet:cifar10 [--rounds 100] [--epsilon 3] [--only NAME,NAME] [--json FILE]

Rows: central training; Flower's FedAvg over many rounds, with DP-SGD, and over one round; FedDF on
public images; the experiment itself. Every row is written to --json once it is done, and a row that
stands there is not run again: a long table resumes. Federated averaging keeps its weights beside
that file after each round, and goes on from there. Of tables there are no public rows for FedDF.
"""

import argparse
import json
import math
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
from fedkd.server.report.records.run_folder import write_atomic
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
    federation.network()  # a wrong name ends it before anything is trained
    if "fedavg-dp" in options.only:
        check_private(federation.network())
    runners = _runners(options, settings, federation)
    for name in options.only:
        if name in done:
            continue
        began = time.monotonic()
        done[name] = [asdict(row) for row in runners[name]()]
        print(f"\r{name}: {time.monotonic() - began:.0f} s{' ' * 40}", file=sys.stderr)
        if options.json is not None:
            content = json.dumps({"of": of, "rows": done}, indent=2) + "\n"
            write_atomic(options.json, content.encode())
    _print_table([Row(**row) for name in options.only for row in done[name]])
    return 0


def _count(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return int(text)


def _epsilon(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(
            f"expected a number above 0, got {text!r}; without privacy it is --only fedavg"
        )
    return value


def _row_names(text: str) -> tuple[str, ...]:
    """Of `ROWS`, each once."""
    names = tuple(dict.fromkeys(text.split(",")))
    if unknown := sorted(set(names) - set(ROWS)):
        raise argparse.ArgumentTypeError(
            f"unknown row {', '.join(unknown)}; choose of {', '.join(ROWS)}"
        )
    return names


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "fedkd.simulations.baselines", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("experiment", nargs="?", default="digits", help="[digits]")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--rounds", type=_count, default=100, help="of FedAvg [100]")
    parser.add_argument("--private-rounds", type=_count, default=20, help="with DP-SGD [20]")
    parser.add_argument(
        "--epochs", type=_count, default=1, help="of local training, each round [1]"
    )
    parser.add_argument("--epsilon", type=_epsilon, default=3.0, help="of every institution [3]")
    parser.add_argument("--public", help="data set of FedDF's public images, as institutions.data")
    parser.add_argument("--public-root", help="its folder [institutions.root]")
    every = ",".join(ROWS)
    parser.add_argument("--only", type=_row_names, default=every, help=f"[{every}]")
    parser.add_argument("--json", type=Path, help="write rows to this file, and go on from it")
    options = parser.parse_args()
    if "once" in options.only and options.public is None:
        parser.error("FedDF needs public images: --public, or --only without once")
    if options.json is not None and not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no such folder; make it first")
    return options


def _runners(
    options: argparse.Namespace, settings: str, federation: Federation
) -> Mapping[str, Callable[[], list[Row]]]:
    """By name, what makes the rows.

    Raises:
        SettingsError: public images that are not there, or of no use beside a table.
    """
    i = federation.experiment.institutions
    count = len(federation.parts)
    root, budget = options.public_root or i.root, federation.experiment.questions.budget
    public = torch.empty(0)
    if "once" in options.only:  # a wrong name ends it before anything is trained
        if federation.data.columns:
            raise SettingsError(
                f"{i.data!r} is a table, and FedDF's public samples are images; --only rows "
                "without once"
            )
        public = public_images(options.public, root, federation.data.shape, budget)

    def averaged(row: str, name: str, rounds: int, epsilon: float | None = None) -> list[Row]:
        with flower_runtime():
            from fedkd.simulations.baselines.fedavg import FedAvgSettings, run_fedavg

            chosen = FedAvgSettings(settings, rounds, options.epochs, epsilon)
            kept = options.json and options.json.with_suffix(f".{row}.safetensors")
            return [run_fedavg(name, chosen, _counter("round", rounds), checkpoint=kept)]

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
        "fedavg": lambda: averaged("fedavg", plain, options.rounds),
        "fedavg-dp": lambda: averaged(
            "fedavg-dp", private, options.private_rounds, options.epsilon
        ),
        "once": once,
        "fedkd": fedkd,
    }


def _counter(what: str, total: int) -> Callable[..., None]:
    """Shows how far it has come, and the time left."""
    began = time.monotonic()

    def progress(number: int, accuracy: float | None = None) -> None:
        spent = time.monotonic() - began
        left = f", {spent / number * (total - number):.0f} s left" if number else ""
        score = f", accuracy {100 * accuracy:.2f} %" if accuracy is not None else ""
        print(f"\r{what} {number} of {total}{score}{left}   ", end="", file=sys.stderr, flush=True)

    return progress


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
        SettingsError: they are of other settings, or it is no file of rows.
    """
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise SettingsError(
            f"{path} is no JSON ({error}); expected rows of an earlier call, so delete it or give "
            "another --json"
        ) from error
    if not isinstance(found, dict) or found.get("of") != of:
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
