"""What the owner's own screen shows. Knows no file and no network."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fedkd.privacy import Budget, Spending
from fedkd.protocol import Card, Guarantee

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
    "recipes": "version of the recipes by which it draws images itself, 0 for none",
    "guarantee": "differential privacy that is promised",
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


def format_card(card: Card) -> str:
    """Every field of a card, one a line."""
    facts = {**told(card), "guarantee": promise(card.guarantee)}
    return "\n".join(f"{WORDS.get(field, field):<54}{_fact(fact)}" for field, fact in facts.items())


def promise(guarantee: Guarantee | None) -> str:
    """What is promised, in a sentence."""
    if guarantee is None:
        return "none: answers may tell of single images"
    g = guarantee
    covered = (
        "whatever is asked of this teacher"
        if g.accountant != "zcdp"
        else (f"all that is ever answered, {g.steps:,} images at most")
    )
    said = (
        f"epsilon {g.epsilon:.4g} at delta {g.delta:g} for {g.unit} ({g.adjacency}) by "
        f"{g.mechanism}, noise {g.noise_multiplier:.4g} times what it hides: {covered}"
    )
    if not g.unpromised:
        return said
    return f"{said}; but {g.unpromised:,} images were answered before without any promise"


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


def charged(data_set: str, spent: Spending, budget: Budget | None) -> str:
    """What was told of one data set and what it has cost in privacy, in one line; "": nothing."""
    said = []
    if spent.micro_rho:
        said.append(_noisy(spent, budget))
    if spent.trainings:
        said.append(
            f"{len(spent.trainings)} private trainings, epsilon {float(spent.epsilon):g} at delta "
            f"{float(spent.delta):g} together"
        )
    if spent.unpromised:
        said.append(f"{spent.unpromised:,} images were answered without any promise")
    return f"data set {data_set}: {'; '.join(said)}" if said else ""


def _noisy(spent: Spending, budget: Budget | None) -> str:
    if budget is None:
        return f"{spent.micro_rho:,} micro-rho are spent"
    return (
        f"{spent.micro_rho:,} of {budget.micro_rho:,} micro-rho are spent, epsilon "
        f"{budget.epsilon_of(spent.micro_rho):.4g} of {budget.epsilon:g} at delta {budget.delta:g}"
    )


def row(entry: Mapping[str, Any]) -> str:
    """One row of the books, as columns."""
    decision = f"{entry['decision']} {entry['reason']}".strip()
    price = f"{entry['count']:>6} {entry['micro_rho']:>9}"
    return (
        f"{entry['sequence']:>8}  {entry['time']}  {entry['server'] or '-':<22} "
        f"{entry['kind']:<11} {entry['signals']:<14} {price}  {decision}"
    )
