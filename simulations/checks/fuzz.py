"""Codec and session, both ways, fed with rubbish: does anything but the protocol's own errors come?

    python -m fedkd.simulations.checks.fuzz --messages 100000 --json FILE

Prints what came of how many messages, and how many a second.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import track


def fuzz(count: int, seed: int, shown: bool = True) -> dict[str, Any]:
    """``count`` messages; how many came to what, in all and by kind.

    Raises:
        DefectError: something came that the protocol does not know.
    """
    from fedkd.simulations.checks.malformed_messages import SPOILS, DefectError, hear, rubbish

    outcomes: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {spoil.__name__: Counter() for spoil in SPOILS}
    began = time.monotonic()
    messages = track(rubbish(count, seed), "messages", total=count, disable=not shown)
    for number, (speaker, kind, data, session) in enumerate(messages):
        try:
            outcome = hear(speaker, session, data)
        except DefectError as error:
            raise DefectError(
                f"message {number} of seed {seed}, {kind}, from {speaker.value}: {error} "
                f"({data[:200].hex()})"
            ) from error
        outcomes[outcome] += 1
        kinds[kind][outcome.partition(":")[0]] += 1
    seconds = time.monotonic() - began
    return {
        "messages": count,
        "seed": seed,
        "outcomes": dict(outcomes.most_common()),
        "by_kind": {kind: dict(came.most_common()) for kind, came in kinds.items()},
        "seconds": round(seconds, 2),
        "messages_per_second": round(count / seconds),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; it fails, with the seed that makes it again, where a defect shows."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.checks.fuzz", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="leave the figures in this file")
    told = parser.parse_args(arguments)
    if told.messages < 1:
        parser.error("--messages must be 1 or more")
    figures = fuzz(told.messages, told.seed)
    if told.json:
        told.json.write_text(json.dumps(figures, indent=2) + "\n")
    for outcome, count in figures["outcomes"].items():
        print(f"{count:>9,}  {outcome}")
    print(f"{figures['messages_per_second']:>9,}  messages a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
