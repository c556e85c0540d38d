"""Soak test: many agents on one hub for many rounds; its memory must not grow.

    python -m fedkd.simulations.checks.soak --agents 64 --rounds 2000 --json FILE

The agents run in processes of their own, so that only the hub's side is measured: this process,
which asks about one small batch in each round and drops the answers. Linux only, for /proc.
"""

import argparse
import json
import multiprocessing
import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

AGENT_PROCESSES = 2
"""Processes that the agents share."""
BATCH, SHAPE, CLASSES = 8, (1, 8, 8), 10
MEASURED_ROUNDS = (100, 500, 1000, 2000)
"""Rounds after which memory is measured, besides the last."""
WARM_UP_ROUNDS = 500
"""Round after which memory must not grow: until then allocators reserve memory."""
MOST_GROWTH = 8.0
"""Tolerated growth in MiB from then to the end: one round transfers a tenth of that."""
JOIN_TIMEOUT, ANSWER_TIMEOUT = 120.0, 60.0
"""Seconds for all agents to join, and for all to answer a query."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 where all agents answered all rounds and memory did not grow."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.checks.soak", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--agents", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    if min(options.agents, options.rounds) < 1:
        parser.error("--agents and --rounds must be 1 or more")
    figures = soak(options.agents, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(
        f"{figures['answers']:,} answers in {figures['seconds']:.0f} s, "
        f"{figures['absent']} absent; "
        f"memory grew by {figures['growth_mib']:+.1f} MiB after round {figures['settled']}"
    )
    return 0 if figures["absent"] == 0 and figures["growth_mib"] <= MOST_GROWTH else 1


def soak(count: int, rounds: int) -> dict[str, Any]:
    """Send ``rounds`` queries to ``count`` agents; returns counts, and memory in MiB by round."""
    import torch

    from fedkd.protocol import Ask
    from fedkd.server.hub.hub import Hub

    torch.set_num_threads(1)
    token, answers, absent = secrets.token_urlsafe(), 0, 0
    memory: dict[int, float] = {}
    rng = torch.Generator().manual_seed(0)
    with Hub(token) as hub, _agent_processes(hub.address, token, count), _bar() as bar:
        names = [card.name for card in hub.wait_for(count, JOIN_TIMEOUT)]
        task = bar.add_task("rounds", total=rounds)
        began = time.monotonic()
        for number in range(1, rounds + 1):
            images = torch.randint(0, 256, (BATCH, *SHAPE), generator=rng, dtype=torch.uint8)
            replies, missing = hub.ask(dict.fromkeys(names, Ask(images)), ANSWER_TIMEOUT)
            answers, absent = answers + len(replies), absent + len(missing)
            if number in MEASURED_ROUNDS or number == rounds:
                memory[number] = resident_memory()
                bar.console.print(f"round {number:>5}: {memory[number]:.1f} MiB resident")
            bar.advance(task)
        seconds = time.monotonic() - began
    settled = max((n for n in memory if n <= max(WARM_UP_ROUNDS, min(memory))), default=rounds)
    return {
        "agents": count,
        "rounds": rounds,
        "answers": answers,
        "absent": absent,
        "seconds": round(seconds, 2),
        "rounds_per_second": round(rounds / seconds, 1),
        "resident_mib": memory,
        "settled": settled,
        "growth_mib": round(memory[rounds] - memory[settled], 2),
    }


def resident_memory() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def _agent_processes(address: str, token: str, count: int) -> Iterator[None]:
    """Processes with ``count`` agents in all, which end with the hub."""
    context = multiprocessing.get_context("spawn")
    names = [f"institution-{number:03d}" for number in range(count)]
    shares = [
        share
        for share in (names[index::AGENT_PROCESSES] for index in range(AGENT_PROCESSES))
        if share
    ]
    processes = [
        context.Process(target=run_agents, args=(address, token, share)) for share in shares
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


def run_agents(address: str, token: str, names: Sequence[str]) -> None:
    """Run agents of these names, each in a thread, until the hub closes the run."""
    import torch

    from fedkd.client.sessions.agent import Agent
    from fedkd.protocol import Ask, Card, PullBack, Reply, Signal

    torch.set_num_threads(1)
    reply = Reply({Signal.LOGITS: torch.zeros(BATCH, CLASSES, dtype=torch.float16)})

    def answer(_: Ask | PullBack) -> Reply:
        return reply

    cards = (Card(name, CLASSES, SHAPE, frozenset({Signal.LOGITS})) for name in names)
    agents = [Agent(address, token, card, answer) for card in cards]
    threads = [threading.Thread(target=agent.serve) for agent in agents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _bar() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeElapsedColumn())


if __name__ == "__main__":
    sys.exit(main())
