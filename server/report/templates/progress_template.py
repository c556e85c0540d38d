"""Jinja template of the part of the page that says how far a run is that goes on."""

PROGRESS_HTML = """\
<div class="progress" role="status">
{% for bar in (
  ("questions", progress.asked, progress.budget, progress.asked_share),
  ("student steps", progress.step, progress.steps, progress.step_share),
) %}
<div class="track"><span>{{ bar[0] }}</span>
<progress max="1" value="{{ "%.4f" % bar[3] }}">{{ bar[3] | percent }}</progress>
<span class="n">{{ bar[1] | count }} of {{ bar[2] | count }}</span></div>
{% endfor %}
<p class="small">The run goes on, for {{ progress.seconds | duration }} so far
{%- if progress.seconds_left is not none %}; at the pace of the latest steps about
<b>{{ progress.seconds_left | duration }}</b> are left
{%- elif progress.question_seconds_left is not none %}; at the pace of the latest questions about
<b>{{ progress.question_seconds_left | duration }}</b> are left for these{% endif %}.
{%- if progress.updated is not none %} Last news at {{ progress.updated | clock_time }}.{% endif %}
 This page refreshes itself; scores, samples and costs are complete at the end.</p>
</div>
"""
