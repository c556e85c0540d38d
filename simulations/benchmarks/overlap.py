"""Benchmark of overlap: student steps while queries are in flight, with slow institutions.

    python -m fedkd.simulations.benchmarks.overlap [--pause 0.03] [--json FILE]

The same run with ``questions.overlap`` and without, in turns: two institutions wait ``--pause``
seconds before every answer, and as much work for the student. Both must end with the same
student.
"""

import argparse
import threading
import time
from pathlib import Path

import torch

from fedkd.client.sessions.agent import Agent
from fedkd.loop import Plan
from fedkd.methods import cudfkd
from fedkd.models import InProcess, build_network
from fedkd.procedural import build_priors
from fedkd.protocol import Ask, PullBack, Reply
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.server.hub.hub import Hub
from fedkd.server.remote_institutions import RemoteInstitutions
from fedkd.simulations.benchmarks.timing import (
    TIMING_HEADER,
    Alternative,
    measure_interleaved,
    print_table,
    ratio,
    timing_rows,
    write_json,
)

SHAPE, CLASSES, TIMEOUT = (1, 8, 8), 10, 60.0
PLAN = Plan(budget=40 * 64, batch=64, steps=160, student_batch=128, asking=1.0)


def institution(address: str, name: str, seed: int, pause: float) -> Agent:
    """An agent whose teacher waits ``pause`` seconds before every answer."""
    teachers = InProcess({name: build_network("cnn", CLASSES, SHAPE, seed)}, SHAPE, CLASSES)

    def answer(request: Ask | PullBack) -> Reply:
        time.sleep(pause)
        return teachers.answer(request if isinstance(request, Ask) else {name: request})[name]

    return Agent(address, "token", teachers.cards[0], answer)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m fedkd.simulations.benchmarks.overlap",
        description=(__doc__ or "").split("\n", 1)[0],
    )
    parser.add_argument("--pause", type=float, default=0.03, help="seconds before every answer")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    students: dict[bool, bytes] = {}
    with Hub("token") as hub:
        agents = [institution(hub.address, name, i, options.pause) for i, name in enumerate("ab")]
        threads = [threading.Thread(target=agent.serve, daemon=True) for agent in agents]
        for thread in threads:
            thread.start()
        cards = hub.wait_for(2, TIMEOUT)

        def run(overlap: bool) -> None:
            student = build_network("cnn", CLASSES, SHAPE, 7)
            parts = Ingredients(student, cudfkd(), PLAN, build_priors("pink"), overlap=overlap)
            participants = RemoteInstitutions(hub, parts, cards, TIMEOUT)
            Coordinator(parts, participants.cards, participants.answer).finish()
            weights = [t.numpy().tobytes() for t in student.state_dict().values()]
            students[overlap] = b"".join(weights)

        ways = [
            Alternative("one after the other", lambda: run(False), calls=1),
            Alternative("overlapping", lambda: run(True), calls=1),
        ]
        figures = measure_interleaved(ways, seconds=0.0, warm_up=1)
    for thread in threads:  # the hub has closed their sessions
        thread.join(TIMEOUT)
    if students[True] != students[False]:
        raise RuntimeError("the two runs have different students")
    title = (
        f"a run of 40 questions and {PLAN.steps} steps, institutions of {1e3 * options.pause:g} ms"
    )
    print_table(title, TIMING_HEADER, timing_rows(figures, "overlapping"))
    gain = ratio(figures, "one after the other", "overlapping")
    write_json({"overlap_ratio": gain, "pause_seconds": options.pause}, options.json)


if __name__ == "__main__":
    main()
