"""What it saves that the student learns while answers travel, over a hub with slow institutions.

    python -m fedkd.simulations.benchmarks.overlap [--pause 0.03] [--json FILE]

The same run twice in turns, with ``questions.overlap`` and without: two institutions that think for
``--pause`` seconds about every question, and as much for the student to do. Both runs end with the
same student, which is looked at.
"""

import argparse
import threading
import time
from pathlib import Path

import torch

from fedkd.client.sessions.agent import Agent
from fedkd.loop import Plan
from fedkd.methods import cudfkd
from fedkd.models import InProcess, build
from fedkd.procedural import priors
from fedkd.protocol import Ask, PullBack, Reply
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.server.hub.hub import Hub
from fedkd.server.hub.participant_list import ParticipantList
from fedkd.simulations.benchmarks.timing import (
    HEAD,
    Way,
    ratio,
    rows_of,
    show,
    side_by_side,
    write,
)

SHAPE, CLASSES, PATIENCE = (1, 8, 8), 10, 60.0
PLAN = Plan(budget=40 * 64, batch=64, steps=160, student_batch=128, asking=1.0)


def institution(address: str, name: str, seed: int, pause: float) -> Agent:
    """An agent whose teacher thinks for so many seconds."""
    at_hand = InProcess({name: build("cnn", CLASSES, SHAPE, seed)}, SHAPE, CLASSES)

    def answer(request: Ask | PullBack) -> Reply:
        time.sleep(pause)
        return at_hand.answer(request if isinstance(request, Ask) else {name: request})[name]

    return Agent(address, "token", at_hand.cards[0], answer)


def main() -> None:
    """Measure, show, and leave what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pause", type=float, default=0.03, help="seconds of an institution")
    parser.add_argument("--json", type=Path, metavar="FILE", help="leave the figures there")
    told = parser.parse_args()
    torch.set_num_threads(1)
    students: dict[bool, bytes] = {}
    with Hub("token") as hub:
        agents = [institution(hub.address, name, i, told.pause) for i, name in enumerate("ab")]
        threads = [threading.Thread(target=agent.serve, daemon=True) for agent in agents]
        for thread in threads:
            thread.start()
        cards = hub.wait_for(2, PATIENCE)

        def run(overlap: bool) -> None:
            student = build("cnn", CLASSES, SHAPE, 7)
            parts = Ingredients(student, cudfkd(), PLAN, priors("pink"), overlap=overlap)
            participants = ParticipantList(hub, parts, cards, PATIENCE)
            Coordinator(parts, participants.cards, participants.answer).finish()
            weights = [t.numpy().tobytes() for t in student.state_dict().values()]
            students[overlap] = b"".join(weights)

        ways = [
            Way("one after the other", lambda: run(False), calls=1),
            Way("overlapping", lambda: run(True), calls=1),
        ]
        figures = side_by_side(ways, seconds=0.0, warm_up=1)
    for thread in threads:  # the hub has told them that the run is over
        thread.join(PATIENCE)
    if students[True] != students[False]:
        raise RuntimeError("the two runs came to two students")
    title = f"a run of 40 questions and {PLAN.steps} steps, institutions of {1e3 * told.pause:g} ms"
    show(title, HEAD, rows_of(figures, "overlapping"))
    gain = ratio(figures, "one after the other", "overlapping")
    write({"overlap_ratio": gain, "pause_seconds": told.pause}, told.json)


if __name__ == "__main__":
    main()
