"""Driver of a loop: puts each of its requests to the institutions until the run has ended."""

from collections.abc import Callable, Generator

from fedkd.core.run_plan import Distilled
from fedkd.protocol import Answers, Request

PAUSE: Request = {}
"""A request to nobody: a pause between student steps, for whoever drives the loop."""


def drive(
    loop: Generator[Request, Answers, Distilled], answer: Callable[[Request], Answers]
) -> Distilled:
    """Run a loop to its end; ``answer`` puts each request to the institutions, but for pauses."""
    try:
        request = next(loop)
        while True:
            request = loop.send(answer(request) if request != PAUSE else {})
    except StopIteration as stop:
        distilled: Distilled = stop.value
        return distilled
