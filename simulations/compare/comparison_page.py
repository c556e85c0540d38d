"""The HTML page of a comparison: plots, and a table with a link to the page of every run."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fedkd.process.plural import counted
from fedkd.server.report.formatting import plural
from fedkd.server.report.records.run_folder import PAGE, write_atomic
from fedkd.server.report.templates.stylesheet import CSS
from fedkd.simulations.compare.comparison_plots import ComparisonPlot
from fedkd.simulations.compare.tables import COLUMNS, ComparisonRow, cell

HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }} – {{ name }}</title>
<style>{{ css }}</style>
</head>
<body>
<main>
<header>
<div class="eyebrow">{{ name }}</div>
<h1>{{ title }}</h1>
<ul class="facts"><li><b>{{ seeds }}</b></li><li>engine <b>{{ engine }}</b></li></ul>
</header>
{% for plot in plots %}
<section>
<h2>{{ plot.heading }}</h2>
<figure>{{ plot.svg }}
<figcaption>{{ plot.caption }}</figcaption></figure>
</section>
{% endfor %}
<section>
<h2>All figures</h2>
<div class="table"><table class="rows">
<thead><tr><th>Experiment</th>
{% for heading in headings %}<th class="n">{{ heading }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in rows %}
<tr><td class="name">{{ row.label }}<div class="small">
{% for seed, link in row.links %}<a href="{{ link }}">seed {{ seed }}</a> {% endfor %}</div></td>
{% for value in row.cells %}<td class="n">{{ value }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<p class="small">{{ spread }}The figures of single runs are in <code>comparison.csv</code>.</p>
</section>
</main>
</body>
</html>
"""


def write_comparison_page(
    rows: Sequence[ComparisonRow],
    columns: Sequence[str],
    plots: Sequence[ComparisonPlot],
    path: Path,
) -> Path:
    """Write ``comparison.html`` to the folder ``path``; it needs nothing beside itself.

    Args:
        rows: at least one.
        columns: of the table, by name.
        plots: in order.
        path: folder of the comparison.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    seeds = max(len(row.folders) for row in rows)
    what, run = (
        ("standard error", "draw") if rows[0].drawn else ("sample standard deviation", "seed")
    )
    spread = f"Mean ± {what} over {seeds} {run}s. " if seeds > 1 else ""
    text = environment.from_string(HTML).render(
        css=Markup(CSS),
        name=path.resolve().name,
        title=f"{plural(len(rows), 'experiment')} compared".capitalize(),
        seeds=counted(seeds, run) + (" each" if len(rows) > 1 else ""),
        engine=", ".join(dict.fromkeys(str(row.results[0]["engine"]) for row in rows)),
        plots=[
            {"heading": plot.heading, "caption": plot.caption, "svg": Markup(plot.svg())}
            for plot in plots
        ],
        headings=[COLUMNS[column].heading for column in columns],
        rows=[
            {
                "label": row.label,
                "cells": [cell(row, column) for column in columns],
                "links": [
                    (seed, f"{quote(os.path.relpath(folder, path))}/{PAGE}")
                    for seed, folder in enumerate(row.folders)
                ],
            }
            for row in rows
        ],
        spread=spread,
    )
    page = path / "comparison.html"
    write_atomic(page, text.encode("utf-8", errors="replace"))
    return page
