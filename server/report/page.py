"""The page of a finished run, made from its folder. It knows no engine and asks nobody anything."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from fedkd.server.report import plots
from fedkd.server.report.formatting import count, duration, percent, plural, promise, size, small
from fedkd.server.report.gallery import stages
from fedkd.server.report.institution_section import overlap, sheets, together
from fedkd.server.report.institution_template import SHEET
from fedkd.server.report.many_institutions import SHOWN, ranges, some
from fedkd.server.report.page_template import HTML
from fedkd.server.report.participation import membership
from fedkd.server.report.result_records import Record, Result, TeacherRecord
from fedkd.server.report.run_folder import PAGE, load, write_whole
from fedkd.server.report.student_metrics import measures
from fedkd.server.report.stylesheet import CSS

_FOLDED = """\
<details class="sheet"><summary><b>The first %s</b><span>of %s institutions</span></summary>
<div class="inside">"""
"""Before what is said of one institution after another, where there are too many."""


@dataclass(frozen=True)
class Card:
    """One headline figure."""

    label: str
    value: str
    note: str


def build_report(path: Path) -> Path:
    """Make ``report.html`` in the run folder ``path`` and return where it lies.

    The page needs nothing beside itself: no network, no script. The same folder gives the same
    bytes.

    Raises:
        DataError: the folder is not that of a finished run (`fedkd.server.report.run_folder.load`).
    """
    page = path / PAGE
    # A name may hold a lone surrogate, which JSON can write and UTF-8 cannot.
    write_whole(page, render(load(path)).encode("utf-8", errors="replace"))
    return page


def render(record: Record) -> str:
    """``record`` as one self-contained HTML page."""
    result, events = record.result, record.events
    environment, many = _environment(), len(result.teachers) > SHOWN
    figures = {
        "accuracy": plots.accuracy(result, events),
        "curriculum": plots.curriculum(events),
        "loss": plots.loss(events),
        "difficulty": plots.difficulty_by_institution(events),
        "generator": plots.generator(events),
        "origins": plots.origins(events),
        "counts": plots.class_counts(result.teachers, result.classes),
    }
    return environment.get_template("page").render(
        css=Markup(CSS),
        figures={name: svg and Markup(svg) for name, svg in figures.items()},
        name=record.name,
        rebuild=f"fedkd report {shlex.quote(record.name)}",
        title=title(result),
        result=result,
        duration=duration(result.seconds),
        cards=cards(result),
        membership=membership(events, result.resumed),
        stages=stages(record.gallery, result.classes) if record.gallery else [],
        colours=plots.origin_colours(events),
        promising=[teacher for teacher in result.teachers if teacher.epsilon is not None],
        telling=[teacher.name for teacher in result.teachers if teacher.class_counts],
        measures=measures(result.student),
        sheets=sheets(result, events)[:SHOWN],
        shown=result.teachers[:SHOWN],
        ranges=ranges(result.teachers),
        folded=Markup(_FOLDED % (SHOWN, count(len(result.teachers)))) if many else "",
        folded_end=Markup("</div></details>") if many else "",
        together=together(result.teachers),
        overlap=overlap(result.teachers),
        settings=settings(result.config),
        files=record.files or {},
    )


def _environment() -> Environment:
    environment = Environment(
        loader=DictLoader({"page": HTML, "institution": SHEET}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        count=count,
        size=size,
        promise=promise,
        plural=plural,
        small=small,
        some=some,
    )
    return environment


def cards(result: Result) -> list[Card]:
    """The headline: what came out, what it is to be measured against, and what it took."""
    teachers, student = result.teachers, result.student
    known = [teacher for teacher in teachers if teacher.accuracy is not None]
    best = max(known, key=lambda teacher: teacher.accuracy or 0, default=None)
    asked = max((teacher.samples_asked for teacher in teachers), default=0)
    pulled = max((teacher.samples_pulled_back for teacher in teachers), default=0)
    sent = sum(teacher.bytes_sent for teacher in teachers) / max(1, len(teachers))
    received = sum(teacher.bytes_received for teacher in teachers) / max(1, len(teachers))
    agreement = student.agreement
    return [
        Card(
            "Student",
            percent(student.accuracy),
            "after the last step"
            + ("" if agreement is None else f"; agrees with the ensemble on {percent(agreement)}"),
        ),
        Card("Ensemble", percent(result.ensemble.accuracy), "the teachers' fused answer"),
        Card(
            "Best single teacher",
            percent(best.accuracy if best else None),
            best.name if best else "no institution told its accuracy",
        ),
        Card(
            "Questions per teacher",
            count(asked),
            f"samples asked; {count(pulled)} pulled back" if pulled else "samples; no gradients",
        ),
        Card(
            "Traffic per teacher",
            size(sent + received),
            f"{size(sent)} sent to it, {size(received)} received",
        ),
        _privacy_card(teachers),
    ]


def _privacy_card(teachers: Sequence[TeacherRecord]) -> Card:
    promised = [teacher.epsilon for teacher in teachers if teacher.epsilon is not None]
    if not promised:
        return Card("Privacy", "none promised", "by any institution")
    largest = f"{max(promised):.3g}"
    if len(promised) == len(teachers):
        return Card("Privacy", f"ε ≤ {largest}", "the largest of all teachers' promises")
    return Card(
        "Privacy",
        f"{len(promised)} of {len(teachers)} promise",
        f"ε ≤ {largest} at these; the others promise nothing",
    )


def title(result: Result) -> str:
    """The run in one line."""
    return f"One student from {plural(len(result.teachers), 'teacher')}"


def settings(config: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """A nested configuration as ``(dotted key, value)`` rows, in its own order."""
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            rows += settings(value, f"{above}{key}.")
        else:
            rows.append((f"{above}{key}", json.dumps(value, ensure_ascii=False)))
    return rows
