"""The HTML report of a run, rendered from its folder alone."""

import base64
import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from fedkd.server.report import plots
from fedkd.server.report.details_section import details_section
from fedkd.server.report.formatting import (
    clock_time,
    count,
    duration,
    guarantee,
    percent,
    plural,
    seconds,
    size,
    small,
)
from fedkd.server.report.growth.growth_section import growth_section
from fedkd.server.report.headline import (
    HeadlineFigure,
    cost_figures,
    held_back_headline,
    running_headline,
)
from fedkd.server.report.institutions.institution_section import (
    combined_guarantee,
    institution_sections,
    summed_guarantee,
)
from fedkd.server.report.institutions.institution_template import INSTITUTION_HTML
from fedkd.server.report.institutions.many_institutions import MAX_SHOWN, abbreviated_names, ranges
from fedkd.server.report.institutions.participation import participation_section
from fedkd.server.report.institutions.reliability_section import reliability_section
from fedkd.server.report.main_scores import main_score, teacher_score
from fedkd.server.report.model_card import write_model_card
from fedkd.server.report.page_kinds import domain_page, task_page
from fedkd.server.report.plot_style import both_widths, variable
from fedkd.server.report.public_pool.public_pool_section import (
    has_public_samples,
    public_pool_section,
)
from fedkd.server.report.records.result_schema import Result
from fedkd.server.report.records.run_folder import (
    PAGE,
    RESULT,
    load_run,
    write_atomic,
)
from fedkd.server.report.records.run_record import RunRecord
from fedkd.server.report.run_progress import RunProgress
from fedkd.server.report.score_plot import cut_below, score_curve
from fedkd.server.report.templates.page_template import HTML
from fedkd.server.report.templates.privacy_template import PRIVACY_HTML
from fedkd.server.report.templates.progress_template import PROGRESS_HTML
from fedkd.server.report.templates.stylesheet import CSS

_FOLDED = """\
<details class="section"><summary><b>The first %s</b><span>of %s institutions</span></summary>
<div class="inside">"""
"""Opening of a collapsed part with the first institutions, if there are many."""


def build_report(path: Path) -> Path:
    """Make ``report.html`` in the run folder ``path`` and return where it lies.

    The student's model card, ``README.md``, is made too where there is none.

    The page needs nothing beside itself: no network, no script. The same folder gives the same
    bytes.

    Raises:
        DataError: the folder is not that of a finished run, see
            `fedkd.server.report.records.run_folder.load`.
    """
    page = path / PAGE
    if (path / RESULT).is_file():
        write_model_card(path)
    # A name may hold a lone surrogate, which JSON can write and UTF-8 cannot.
    write_atomic(page, render(load_run(path)).encode("utf-8", errors="replace"))
    return page


def render(record: RunRecord, progress: RunProgress | None = None, script: str = "") -> str:
    """``record`` as one self-contained HTML page.

    Args:
        record: of a finished run, or of one that goes on.
        progress: of a run that goes on; None for a finished one.
        script: what a page that refreshes itself runs; the page allows this script alone.
    """
    result, events = record.result, record.events
    environment, many = _environment(), len(result.teachers) > MAX_SHOWN
    domain, task, score = (
        domain_page(result.domain),
        task_page(result.task),
        main_score(result.task),
    )
    of_teacher = teacher_score(result.task)
    colours = {name: variable(colour) for name, colour in plots.origin_colours(events).items()}
    return environment.get_template("page").render(
        css=Markup(CSS),
        script=Markup(script),
        script_hash=source_hash(script),
        figures=_figures(record),
        name=record.name,
        rebuild=f"fedkd report {shlex.quote(record.name)}",
        title=title(result),
        result=result,
        progress=progress,
        duration=duration(result.seconds),
        domain=domain,
        task=task,
        score=score,
        teacher_score=of_teacher,
        cut=cut_below(result, events),
        headline=_headline(result, progress),
        details=details_section(task.scores(result), task.picture(record)),
        growth=growth_section(result.growth, events),
        participation=participation_section(events, result.resumed),
        reliability=reliability_section(events),
        public_pool=public_pool_section(events),
        public=has_public_samples(result),
        samples=domain.section(record, colours, task),
        with_guarantee=[teacher for teacher in result.teachers if teacher.epsilon is not None],
        releasing=[teacher.name for teacher in result.teachers if teacher.class_counts],
        measures=task.metrics(result.student),
        sections=institution_sections(result, events)[:MAX_SHOWN],
        shown=result.teachers[:MAX_SHOWN],
        ranges=ranges(result.teachers, of_teacher),
        folded=Markup(_FOLDED % (MAX_SHOWN, count(len(result.teachers)))) if many else "",
        folded_end=Markup("</div></details>") if many else "",
        self_paced=any(getattr(e, "curriculum_lambda", None) is not None for e in events),
        combined=combined_guarantee(result.teachers),
        summed=summed_guarantee(result.teachers),
        settings=flatten_config(result.config),
        files=record.files or {},
    )


def _figures(record: RunRecord) -> dict[str, Markup | None]:
    """The plots, each for wide pages and for narrow ones."""
    result, events = record.result, record.events
    entropy = task_page(result.task).entropy
    draw: dict[str, Callable[[], str | None]] = {
        "score": lambda: score_curve(result, events),
        "held_back": lambda: plots.held_back(events),
        "curriculum": lambda: plots.curriculum(events),
        "loss": lambda: plots.loss(events),
        "difficulty": lambda: plots.difficulty_by_institution(events),
        "generator": lambda: plots.generator(events),
        "origins": lambda: plots.origins(events, entropy),
        "counts": lambda: plots.class_counts(result.teachers, result.classes),
    }
    drawn = {name: both_widths(each) for name, each in draw.items()}
    return {name: None if svg is None else Markup(svg) for name, svg in drawn.items()}


def _headline(result: Result, progress: RunProgress | None) -> list[HeadlineFigure]:
    if progress is not None:
        return running_headline(result, progress)
    detailed = domain_page(result.domain).detailed
    scores = task_page(result.task).headline(result, detailed)
    return [*held_back_headline(result), *scores, *cost_figures(result)]


def source_hash(script: str) -> str:
    """``'sha256-...'``, by which a content security policy allows one script; "" for none."""
    if not script:
        return ""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _environment() -> Environment:
    environment = Environment(
        loader=DictLoader(
            {
                "page": HTML,
                "progress": PROGRESS_HTML,
                "institution": INSTITUTION_HTML,
                "privacy": PRIVACY_HTML,
            }
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        count=count,
        size=size,
        guarantee=guarantee,
        seconds=seconds,
        plural=plural,
        small=small,
        duration=duration,
        clock_time=clock_time,
        abbreviated_names=abbreviated_names,
    )
    return environment


def title(result: Result) -> str:
    """The title of the page."""
    return f"One student from {plural(len(result.teachers), 'teacher')}"


def flatten_config(config: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """A nested configuration as ``(dotted key, value)`` rows, in its own order."""
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            rows += flatten_config(value, f"{above}{key}.")
        else:
            rows.append((f"{above}{key}", json.dumps(value, ensure_ascii=False)))
    return rows
