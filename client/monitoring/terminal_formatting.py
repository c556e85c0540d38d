"""Text for the owner's terminal: the card, progress, ledger entries and privacy spending."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedkd.privacy import Budget, Spending
from fedkd.process.plural import counted
from fedkd.protocol import Card, Column, Guarantee, NamedTask, Number

CARD_LABELS = {
    "name": "name",
    "classes": "classes of its teacher",
    "shape": "images that it reads (C, H, W)",
    "signals": "signals that may be asked for",
    "pull_back": "gradients of them may be asked for",
    "samples": "most images that it answers",
    "largest_batch": "most of them in one question",
    "class_counts": "training images of each class",
    "scores": "accuracy of a student on private test images is released",
    "class_names": "names of its classes, in order",
    "columns": "columns of its rows",
    "numbers": "numbers that its teacher predicts",
    "tasks": "tasks of its teacher, with their classes",
    "recipes": "version of the recipes by which it draws images itself, 0 for none",
    "guarantee": "guarantee of differential privacy",
    "fedkd_version": "version of fedkd that it runs",
    "batch_statistics": "batch norm by the samples of a question, where that is asked for",
}
"""Descriptions of the fields of a card."""
TABLE_LABELS = {
    "shape": "rows that it reads (1, 1, columns)",
    "samples": "most rows that it answers",
    "class_counts": "training rows of each class",
    "scores": "accuracy of a student on private test rows is released",
    "recipes": "version of the recipes by which it draws rows itself, 0 for none",
}
"""Of those of a card of rows."""
LEDGER_HEADING = (
    f"{'row':>8}  {'time':<32}  {'server':<22} {'kind':<11} {'signals':<14} {'images':>6} "
    f"{'micro-rho':>9}  decision"
)
"""Above the columns of `format_entry`."""


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, where that is a terminal, from the first progress on."""
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task = progress.add_task(what, total=None)

    def update(done: int, total: int) -> None:
        progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        if progress.live.is_started:
            progress.stop()


def format_tested_network(weights: int, right: int, examples: int) -> str:
    """A network's size, and its accuracy where there are test data."""
    size = f"{weights:,} weights"
    return f"{size}, {right} of {examples} right: {right / examples:.2%}" if examples else size


def card_fields(card: Card) -> dict[str, Any]:
    """Every field of a card, in types that JSON has."""
    guarantee = None if card.guarantee is None else str(card.guarantee)
    return {**asdict(card), "signals": sorted(card.signals), "guarantee": guarantee}


def format_card(card: Card) -> str:
    """Every field of a card, one a line."""
    samples = "rows" if card.columns else "images"
    facts = {**card_fields(card), "guarantee": format_guarantee(card.guarantee, samples)}
    facts |= {"columns": _columns(card.columns), "numbers": _numbers(card.numbers)}
    facts |= {"tasks": _tasks(card.tasks)}
    labels = {field: CARD_LABELS.get(field, field) for field in facts}
    if card.columns:
        labels |= TABLE_LABELS
    else:
        del facts["columns"]
    if card.numbers:
        del facts["class_names"], facts["class_counts"], facts["classes"]
    else:
        del facts["numbers"]
    if card.tasks:
        del facts["class_names"]
    else:
        del facts["tasks"]
    width = max(map(len, labels.values())) + 2
    return "\n".join(f"{labels[field]:<{width}}{_fact(fact)}" for field, fact in facts.items())


def _columns(columns: Sequence[Column]) -> str:
    """Columns with their ranges or levels, which the card discloses."""
    return "; ".join(
        f"{c.name}: {', '.join(c.levels)}" if c.levels else f"{c.name}: {c.low:g} to {c.high:g}"
        for c in columns
    )


def _tasks(tasks: Sequence[NamedTask]) -> str:
    """Tasks with their classes, in the order of the outputs."""
    return "; ".join(f"{task.name}: {', '.join(task.class_names)}" for task in tasks)


def _numbers(numbers: Sequence[Number]) -> str:
    """Numbers that the teacher predicts, with units and ranges."""
    return "; ".join(
        f"{n.name}{f' in {n.unit}' if n.unit else ''}: {n.low:g} to {n.high:g}"
        + (f", error {n.error:g}" if n.error is not None else "")
        for n in numbers
    )


def format_number_scores(scores: Mapping[str, float | None]) -> str:
    """Scores of a student of numbers or of several tasks, in one line."""
    known = [f"{name} {score:.4g}" for name, score in scores.items() if score is not None]
    return ", ".join(known)


def format_guarantee(guarantee: Guarantee | None, samples: str = "images") -> str:
    """A DP guarantee in a sentence; ``samples`` is what training data are called."""
    if guarantee is None:
        return f"none: answers may disclose single {samples}"
    g = guarantee
    covered = (
        "whatever is asked of this teacher"
        if g.accountant != "zcdp"
        else (f"all that is ever answered, {g.steps:,} images at most")
    )
    text = (
        f"epsilon {g.epsilon:.4g} at delta {g.delta:g} for {g.unit} ({g.adjacency}) by "
        f"{g.mechanism}, noise {g.noise_multiplier:.4g} times what it hides: {covered}"
    )
    if not g.unpromised:
        return text
    images = counted(g.unpromised, "image was", "images were")
    return f"{text}; but {images} answered before without any guarantee"


def format_facts(facts: Mapping[str, object]) -> str:
    """Facts, one a line; those that are None are left out."""
    present = ((name, fact) for name, fact in facts.items() if fact is not None)
    return "\n".join(f"  {name.replace('_', ' '):<18}{_fact(fact)}" for name, fact in present)


def _fact(fact: object) -> str:
    match fact:
        case None:
            return "not disclosed"
        case bool():
            return "yes" if fact else "no"
        case list() | tuple():
            return ", ".join(str(each) for each in fact)
    return str(fact)


def format_totals(samples: int, cap: int, refused: int, examined: int) -> str:
    """The totals of a ledger, in one line."""
    text = f"{samples:,} of {counted(cap, 'sample is', 'samples are')} spent"
    text += f", {counted(refused, 'query was', 'queries were')} refused"
    students = counted(examined, "student was", "students were")
    return text + (f", {students} examined" if examined else "")


def format_spending(data_set: str, spent: Spending, budget: Budget | None) -> str:
    """The privacy spending of one data set, in one line; "" where there is none."""
    parts = []
    if spent.micro_rho:
        parts.append(_format_rho(spent, budget))
    if spent.trainings:
        trainings = counted(len(spent.trainings), "private training")
        together = f"epsilon {float(spent.epsilon):g} at delta {float(spent.delta):g} together"
        parts.append(f"{trainings}, {together}")
    if spent.unpromised:
        images = counted(spent.unpromised, "image was", "images were")
        parts.append(f"{images} answered without any guarantee")
    return f"data set {data_set}: {'; '.join(parts)}" if parts else ""


def _format_rho(spent: Spending, budget: Budget | None) -> str:
    if budget is None:
        return f"{spent.micro_rho:,} micro-rho are spent"
    return (
        f"{spent.micro_rho:,} of {budget.micro_rho:,} micro-rho are spent, epsilon "
        f"{budget.epsilon_of(spent.micro_rho):.4g} of {budget.epsilon:g} at delta {budget.delta:g}"
    )


def format_entries(entries: Sequence[Mapping[str, Any]], of: int) -> str:
    """The latest ledger entries in columns with a heading, and how many of all they are."""
    lines = [LEDGER_HEADING, *map(format_entry, entries)] if entries else []
    if len(entries) < of:
        lines.append(f"{len(entries):,} of {of:,} rows are shown, the latest; --last N shows N")
    return "\n".join(lines)


def format_entry(entry: Mapping[str, Any]) -> str:
    """One ledger entry, in columns."""
    decision = f"{entry['decision']} {entry['reason']}".strip()
    if entry["queries"] > 1:
        decision += f" x{entry['queries']}"
    cost = f"{entry['count']:>6} {entry['micro_rho']:>9}"
    return (
        f"{entry['sequence']:>8}  {entry['time']}  {entry['server'] or '-':<22} "
        f"{entry['kind']:<11} {entry['signals']:<14} {cost}  {decision}"
    )
