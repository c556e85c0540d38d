"""Fuzz codec and session in both directions: nothing but the protocol's own errors may come.

    python -m fedkd.simulations.checks.fuzz --messages 100000 --json FILE

Prints the number of messages by outcome, and messages per second.
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


def fuzz(count: int, seed: int, show_progress: bool = True) -> dict[str, Any]:
    """Deliver ``count`` messages; returns outcomes, in all and by kind.

    Raises:
        DefectError: an outcome that the protocol does not allow.
    """
    from fedkd.simulations.checks.malformed_messages import (
        MUTATIONS,
        DefectError,
        deliver,
        malformed_messages,
    )

    outcomes: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {mutation.__name__: Counter() for mutation in MUTATIONS}
    began = time.monotonic()
    messages = track(
        malformed_messages(count, seed), "messages", total=count, disable=not show_progress
    )
    for number, (sender, kind, data, session) in enumerate(messages):
        try:
            outcome = deliver(sender, session, data)
        except DefectError as error:
            raise DefectError(
                f"message {number} of seed {seed}, {kind}, from {sender.value}: {error} "
                f"({data[:200].hex()})"
            ) from error
        outcomes[outcome] += 1
        kinds[kind][outcome.partition(":")[0]] += 1
    seconds = time.monotonic() - began
    return {
        "messages": count,
        "seed": seed,
        "outcomes": dict(outcomes.most_common()),
        "by_kind": {kind: dict(counts.most_common()) for kind, counts in kinds.items()},
        "seconds": round(seconds, 2),
        "messages_per_second": round(count / seconds),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; a defect raises an error that names the seed."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.checks.fuzz", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    if options.messages < 1:
        parser.error("--messages must be 1 or more")
    figures = fuzz(options.messages, options.seed)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    for outcome, count in figures["outcomes"].items():
        print(f"{count:>9,}  {outcome}")
    print(f"{figures['messages_per_second']:>9,}  messages a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
