"""Benchmark of the wire: hub and sessions against a unary call, TCP and Flower's messages.

    python -m fedkd.simulations.benchmarks.wire [--json FILE] [--quick] [--without-flower]

Each transport carries the same batch of images to another process on this machine, and an answer of
ten classes back; the answer itself costs nothing. Ours is the hub and an agent, with a real release
gate, a policy and a ledger in memory behind it, for which every query is new.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedkd.errors import FedkdError
from fedkd.simulations.engines.environment_variables import set_environment_defaults


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, or 2 on a `FedkdError`."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.benchmarks.wire", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--quick", action="store_true", help="a few calls of each")
    parser.add_argument(
        "--without-flower", action="store_true", help="leave out Flower's round trip"
    )
    options = parser.parse_args(arguments)
    set_environment_defaults()
    # Imported late: --help does not need it.
    from fedkd.simulations.benchmarks.timing import write_json
    from fedkd.simulations.benchmarks.transport_measurements import FULL, QUICK, measure_transports
    from fedkd.simulations.benchmarks.wire_report import report

    size = QUICK if options.quick else FULL
    try:
        figures = report(size, *measure_transports(size, with_flower=not options.without_flower))
    except FedkdError as error:
        print(f"fedkd: {error}", file=sys.stderr)
        return 2
    write_json(figures, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
