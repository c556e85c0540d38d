"""The page's part on scores beside the main one, and the picture of predictions."""

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fedkd.server.report.score_table import ScoreTable
from fedkd.server.report.tables.prediction_plots import PredictionPicture

HTML = """\
{% if scores %}
<h3>Scores on the test set</h3>
<div class="table"><table class="scores">
<thead><tr><th></th>
{% for heading in scores.headings %}<th class="n">{{ heading }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for who, values in scores.rows %}
<tr><td class="name">{{ who }}</td>{% for value in values %}<td class="n">{{ value }}</td>
{%- endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if picture %}
<h3>{{ picture.heading }}</h3>
<figure>{{ svg }}
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endif %}
"""


def details_section(scores: ScoreTable | None, picture: PredictionPicture | None) -> Markup | None:
    """Table and picture as HTML; None where there are neither."""
    if scores is None and picture is None:
        return None
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    svg = Markup(picture.svg) if picture else None
    template = environment.from_string(HTML)
    return Markup(template.render(scores=scores, picture=picture, svg=svg))
