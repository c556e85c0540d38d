"""A crowd: 1,000 open streams of institutions on one hub, each asked 200 questions.

    python -m fedkd.simulations.checks.crowd --streams 1000 --questions 200 --json FILE

The institutions run in processes of their own and answer with real messages of the wire; this
process has the hub and asks, so that its memory and processor time are the hub's. It fails where an
answer is missing or the hub's memory exceeds its bound. Linux only, for /proc.
"""

import argparse
import json
import multiprocessing
import secrets
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedkd.server.hub.hub import Hub

INSTITUTION_PROCESSES = 4
"""Processes that the institutions share."""
BATCH, SHAPE, CLASSES = 16, (1, 8, 8), 10
MOST_MEMORY_GB = 2.0
"""Bound of the hub's peak resident memory, in 10^9 bytes."""
JOIN_TIMEOUT, ANSWER_TIMEOUT = 120.0, 120.0
"""Seconds for all institutions to join, and for all to answer a question."""
PARTING_SECONDS = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 where every institution answered every question within the memory."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.checks.crowd", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    if min(options.streams, options.questions) < 1:
        parser.error("--streams and --questions must be 1 or more")
    figures = crowd(options.streams, options.questions)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(
        f"{figures['streams']:,} streams, joined in {figures['join_seconds']:.1f} s; "
        f"{figures['answers']:,} answers, {figures['absent']} absent, "
        f"{figures['answers_per_second']:,.0f} answers a second\n"
        f"a question: p50 {figures['question_seconds_p50']:.3f} s, "
        f"p99 {figures['question_seconds_p99']:.3f} s; "
        f"CPU: hub {figures['hub_cpu_seconds']:.1f} s, "
        f"institutions {figures['institutions_cpu_seconds']:.1f} s\n"
        f"hub's peak memory {figures['hub_peak_gb']:.2f} GB "
        f"({figures['hub_idle_gb']:.2f} GB before anybody came), bound {MOST_MEMORY_GB:g} GB"
    )
    return 0 if figures["absent"] == 0 and figures["hub_peak_gb"] <= MOST_MEMORY_GB else 1


def crowd(streams: int, questions: int) -> dict[str, Any]:
    """Ask ``streams`` institutions ``questions`` questions; returns the figures."""
    import torch

    from fedkd.protocol import Ask
    from fedkd.server.hub.hub import MAX_INSTITUTIONS, Hub

    torch.set_num_threads(1)
    rng, token = torch.Generator().manual_seed(0), secrets.token_urlsafe()
    seconds: list[float] = []
    answers = absent = 0
    idle = peak_memory_gb()
    with (
        Hub(token, max_institutions=max(streams, MAX_INSTITUTIONS)) as hub,
        _institutions(hub.address, token, streams) as processes,
    ):
        began = time.monotonic()
        names = _joined(hub, processes, streams)
        joined, cpu = time.monotonic(), time.process_time()
        for _ in range(questions):
            ask = Ask(torch.randint(0, 256, (BATCH, *SHAPE), generator=rng, dtype=torch.uint8))
            start = time.monotonic()
            replies, missing = hub.ask(dict.fromkeys(names, ask), ANSWER_TIMEOUT)
            seconds.append(time.monotonic() - start)
            answers, absent = answers + len(replies), absent + len(missing)
        cpu = time.process_time() - cpu
        hub.close()
    ordered = sorted(seconds)
    return {
        "streams": streams,
        "questions": questions,
        "batch": [BATCH, *SHAPE],
        "classes": CLASSES,
        "answers": answers,
        "absent": absent,
        "join_seconds": round(joined - began, 2),
        "question_seconds_p50": round(statistics.median(ordered), 4),
        "question_seconds_p99": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 4),
        "answers_per_second": round(answers / sum(seconds), 1),
        "hub_cpu_seconds": round(cpu, 2),
        "institutions_cpu_seconds": round(_children_cpu_seconds(), 2),
        "hub_idle_gb": round(idle, 3),
        "hub_peak_gb": round(peak_memory_gb(), 3),
    }


def _joined(hub: "Hub", processes: Sequence[SpawnProcess], count: int) -> list[str]:
    """Names of the institutions, once ``count`` have joined."""
    deadline = time.monotonic() + JOIN_TIMEOUT
    while len(cards := hub.cards) < count:
        failed = [process.name for process in processes if process.exitcode]
        if failed or time.monotonic() > deadline:
            raise SystemExit(
                f"{len(cards)} of {count} institutions joined within {JOIN_TIMEOUT:g} s; "
                f"processes that failed: {', '.join(failed) or 'none'}"
            )
        time.sleep(0.05)
    return [card.name for card in cards]


def peak_memory_gb() -> float:
    """Peak resident memory of this process since it began, in 10^9 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")) / 1e9


def _children_cpu_seconds() -> float:
    """Processor time of the institutions' processes, their start included."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _institutions(address: str, token: str, count: int) -> Iterator[list[SpawnProcess]]:
    """Processes with ``count`` institutions in all; they end with the hub."""
    from fedkd.simulations.checks.crowd_institutions import run_institutions

    context = multiprocessing.get_context("spawn")
    names = [f"institution-{number:04d}" for number in range(count)]
    shares = [names[index::INSTITUTION_PROCESSES] for index in range(INSTITUTION_PROCESSES)]
    processes = [
        context.Process(
            target=run_institutions, args=(address, token, share, BATCH, SHAPE, CLASSES)
        )
        for share in shares
        if share
    ]
    for process in processes:
        process.start()
    try:
        yield processes
        for process in processes:
            process.join(PARTING_SECONDS)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()


if __name__ == "__main__":
    sys.exit(main())
