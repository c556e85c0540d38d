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
    "class_names": "names of its classes, in order",
    "guarantee": "promise of differential privacy",
}
"""What each field of a card says, for people."""


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, where that is a terminal, from the first progress on."""
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(what, total=None)

    def watch(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield watch
    finally:
        if progress.live.is_started:
            progress.stop()


def told(card: Card) -> dict[str, Any]:
    """Every field of a card, as JSON takes it."""
    promise = None if card.guarantee is None else str(card.guarantee)
    return {**asdict(card), "signals": sorted(card.signals), "guarantee": promise}


def in_words(card: Card) -> str:
    """Every field of a card, one a line."""
    facts = told(card)
    facts["guarantee"] = facts["guarantee"] or "none"
    return "\n".join(f"{WORDS[field]:<54}{_fact(fact)}" for field, fact in facts.items())


def banner(facts: Mapping[str, object]) -> str:
    """What an agent is about to do, one fact a line; what does not apply is left out."""
    told = ((name, fact) for name, fact in facts.items() if fact is not None)
    return "\n".join(f"  {name.replace('_', ' '):<18}{_fact(fact)}" for name, fact in told)


def _fact(fact: object) -> str:
    match fact:
        case None:
            return "not told"
        case bool():
            return "yes" if fact else "no"
        case list() | tuple():
            return ", ".join(str(each) for each in fact)
    return str(fact)


def spent(samples: int, cap: int, refused: int, examined: int) -> str:
    """What stands in the books, in one line."""
    said = f"{samples:,} of {cap:,} samples are spent, {refused:,} questions were refused"
    return said + (f", {examined:,} students were examined" if examined else "")


def row(entry: Mapping[str, Any]) -> str:
    """One row of the books, as columns."""
    decision = f"{entry['decision']} {entry['reason']}".strip()
    return (
        f"{entry['sequence']:>8}  {entry['time']}  {entry['server'] or '-':<22} "
        f"{entry['kind']:<11} {entry['signals']:<14} {entry['count']:>6}  {decision}"
    )
