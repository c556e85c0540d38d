"""What the owner's own screen shows. Knows no file and no network."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedkd.signals import Card

WORDS = {
    "name": "name",
    "classes": "classes that its teacher tells apart",
    "shape": "images that it reads (C, H, W)",
    "signals": "signals that may be asked for",
    "pull_back": "gradients of them may be asked for",
    "samples": "most images that it answers",
    "largest_batch": "most of them in one question",
    "class_counts": "training images of each class",
    "scores": "accuracy of a student on private test images is told",
}
"""What each field of a card says, for people."""


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, which appears once there is progress to show."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(what, total=None, visible=False)

        def watch(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=True)

        yield watch


def told(card: Card) -> dict[str, Any]:
    """Every field of a card, as JSON takes it."""
    return {**asdict(card), "signals": sorted(card.signals)}


def in_words(card: Card) -> str:
    """Every field of a card, one a line."""
    return "\n".join(
        f"{WORDS.get(field, field):<54}{_fact(fact)}" for field, fact in told(card).items()
    )


def _fact(fact: object) -> str:
    match fact:
        case None:
            return "not told"
        case bool():
            return "yes" if fact else "no"
        case list() | tuple():
            return ", ".join(str(each) for each in fact)
    return str(fact)


def spent(samples: int, cap: int, refused: int) -> str:
    """What stands in the books, in one line."""
    return f"{samples:,} of {cap:,} samples are spent, {refused:,} questions were refused"


def row(entry: Mapping[str, Any]) -> str:
    """One row of the books, as columns."""
    decision = f"{entry['decision']} {entry['reason']}".strip()
    return (
        f"{entry['sequence']:>8}  {entry['time']}  {entry['server'] or '-':<22} "
        f"{entry['kind']:<9} {entry['signals']:<14} {entry['count']:>6}  {decision}"
    )
