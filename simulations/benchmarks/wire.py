"""What the wire costs, beside what else would carry the same: a table of ratios.

    python -m fedkd.simulations.benchmarks.wire [--json FILE] [--quick] [--without-flower]

Every way carries the same batch of images to a partner in another process on this machine, and an
answer of ten classes back; what answers costs nothing. Ours is the hub, the agent, and behind it a
real door with a policy and books in memory, to which every question is new.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedkd.errors import FedkdError
from fedkd.simulations.engines.environment_variables import set_environment_defaults


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status: 0, or 2 on an error of ours."""
    parser = argparse.ArgumentParser("fedkd.simulations.benchmarks.wire", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", type=Path, help="leave the figures in this file")
    parser.add_argument("--quick", action="store_true", help="a few calls of each, to try it")
    parser.add_argument("--without-flower", action="store_true", help="leave Flower's trip out")
    given = parser.parse_args(arguments)
    set_environment_defaults()
    # Only now: none of this is needed to say what the command takes.
    from fedkd.simulations.benchmarks.timing import write
    from fedkd.simulations.benchmarks.transport_measurements import FULL, QUICK, measured
    from fedkd.simulations.benchmarks.wire_report import told

    size = QUICK if given.quick else FULL
    try:
        figures = told(size, *measured(size, with_flower=not given.without_flower))
    except FedkdError as error:
        print(f"fedkd: {error}", file=sys.stderr)
        return 2
    write(figures, given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
