"""Jinja template of the report page; its style sheet is in `stylesheet` beside it."""

HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:
{%- if script %}; script-src {{ script_hash }}; connect-src 'self'{% endif %}">
<meta name="color-scheme" content="light dark">
<title>{{ title }} – {{ name }}</title>
<style>{{ css }}</style>
</head>
<body>
<main{% if not progress %} data-finished{% endif %}>
<header>
<div class="eyebrow">{{ name }}</div>
<h1>{{ title }}</h1>
<ul class="facts">
<li>method <b>{{ result.method_title or result.method }}</b></li>
<li>engine <b>{{ result.engine }}</b></li>
<li>seed <b>{{ result.seed }}</b></li>
<li><b>{{ result.student_steps | count }}</b> student steps</li>
{% if result.generator_steps %}
<li><b>{{ result.generator_steps | count }}</b> generator steps</li>
{% endif %}
{% if not progress %}
<li>took <b>{{ duration }}</b></li>
{% endif %}
</ul>
{% if progress %}
{% include "progress" %}
{% endif %}
<dl class="cards">
{% for card in headline %}
<div class="card{{ " first" if loop.first }}"><dt>{{ card.label }}</dt>
<dd class="value">{{ card.value }}</dd><dd class="note">{{ card.note }}</dd></div>
{% endfor %}
</dl>
{% for warning in result.warnings %}
<div class="note-box"><p>{{ warning }}</p></div>
{% endfor %}
</header>

<section id="accuracy">
<h2>What the student learned</h2>
{% if figures.score %}
<figure>{{ figures.score }}
<figcaption>{{ score.name | first | upper }}{{ score.name[1:] }} of the student on the test set.
{% if not progress %}
Dashed: the ensemble. Grey: each teacher by
itself{{ ", %d of them, spread evenly by rank" % (shown | length) if ranges }}. Training goes on
after the last question, on the answers already given.
{% endif %}
{%- if cut %} Scores below {{ cut }}, of the first steps, lie beneath the picture.{% endif %}

</figcaption>
</figure>
{% elif figures.held_back %}
<figure>{{ figures.held_back }}
<figcaption>Nobody here has test data. A share of the samples is therefore held back: the student
never learns from them, and is compared with their fused answers. That tells how well it follows
its teachers on invented samples, and not how good they are.</figcaption></figure>
{% elif progress %}
<p>The student was not scored yet.</p>
{% else %}
<p>The student was not scored during this run.</p>
{% endif %}
{% if figures.score and figures.held_back %}
<details class="section"><summary><b>On samples that were held back</b>
<span>against their fused answers</span></summary>
<div class="inside"><figure>{{ figures.held_back }}
<figcaption>The student never learns from these samples. Without test data this is all that a
coordinator knows.</figcaption></figure></div></details>
{% endif %}
{% set last = score.of(result.student) %}
{% if result.student.best_test_accuracy is not none and last is not none and not progress %}
<p class="small">The figure that counts is that of the last student,
{{ score.text(last) }}. The best on the way was {{ result.student.best_test_accuracy | percent }};
picking it would be choosing by the test set.</p>
{% endif %}
{{ growth }}
{% if measures %}
<h3>{{ task.metrics_title }}</h3>
<div class="table"><table class="plain measures">
{% for measure in measures %}
<tr><th>{{ measure.label }}</th><td class="n">{{ measure.value }}</td>
<td>{{ measure.note }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% if details %}
{% if domain.detailed or task.picture_stands_open %}
{{ details }}
{% else %}
<details class="section"><summary><b>More scores, and calibration</b>
<span>beside the {{ score.name }}</span></summary>
<div class="inside">
{{ details }}
</div></details>
{% endif %}
{% endif %}
</section>

<section id="institutions">
<h2>Who taught it</h2>
{% if ranges %}
<div class="table"><table>
<thead><tr><th>Over all {{ result.teachers | length | count }}</th><th class="n">Least</th>
<th class="n">Median</th><th class="n">Most</th></tr></thead>
<tbody>
{% for range in ranges %}
<tr><td class="name">{{ range.label }}</td><td class="n">{{ range.least }}</td>
<td class="n">{{ range.median }}</td><td class="n">{{ range.most }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="small">Wherever institutions are shown one by one on this page, they are the first
{{ shown | length }} of {{ result.teachers | length | count }}, and folded away. Each of the others
is in <code>result.json</code>.</p>
{% endif %}
{% set timed = shown | rejectattr("answer_seconds_median", "none") | list %}
{{ folded }}
<div class="table"><table>
<thead><tr><th>Institution</th><th>Model</th><th>Own {{ teacher_score.name }}</th>
<th class="n">Asked</th>
{% if not progress %}
<th class="n">Pulled back</th><th class="n">Sent to it</th><th class="n">Received</th>
<th class="n">Refusals</th>
{% endif %}
{%- if timed %}<th class="n">Half of its answers within</th>
<th class="n">Nine in ten</th>{% endif %}
<th>Privacy</th></tr></thead>
<tbody>
{% for teacher in shown %}
<tr><td class="name">{% if progress %}{{ teacher.name }}{% else %}
<a href="#institution-{{ loop.index }}">{{ teacher.name }}</a>{% endif %}</td>
<td>{{ teacher.model }}</td>
{% set own = teacher_score.of(teacher) %}
<td>{{ teacher_score.text(own) }}{% if own is not none %}<span class="bar"><i
 style="width:{{ "%.1f" % (100 * [0, own] | max) }}%"></i></span>{% endif %}</td>
<td class="n">{{ teacher.samples_asked | count }}</td>
{% if not progress %}
<td class="n">{{ teacher.samples_pulled_back | count }}</td>
<td class="n">{{ teacher.bytes_sent | size }}</td>
<td class="n">{{ teacher.bytes_received | size }}</td>
<td class="n">{{ teacher.refusals | count }}</td>
{% endif %}
{% if timed %}
{% for time in (teacher.answer_seconds_median, teacher.answer_seconds_p90) %}
<td class="n">{{ "not measured" if time is none else time | seconds }}</td>
{% endfor %}
{% endif %}
<td class="whole{% if teacher.epsilon is none %} none{% endif %}">{{ teacher | guarantee }}</td>
</tr>
{% endfor %}
</tbody></table></div>
{{ folded_end }}
<p class="small">Samples, not batches: one {{ domain.sample }} put to one teacher counts as one.
A sample is pulled back when the gradient with respect to its {{ domain.values }} was answered as
well.
{% if result.teachers | sum(attribute="bytes_sent") %}
Together they were sent {{ result.teachers | sum(attribute="bytes_sent") | size }} and sent back
{{ result.teachers | sum(attribute="bytes_received") | size }}
{%- if result.engine == "local" %}, or would have been: everybody was in one process
{%- endif %}.
{% endif %}
</p>
{{ participation }}
{{ reliability }}
{% if figures.counts %}
<h3>Training {{ domain.samples }} of each class</h3>
{{ folded }}
<figure>{{ figures.counts }}
<figcaption>Released by {{ releasing | length }} of {{ result.teachers | length }} institutions.
{%- if releasing | length > shown | length %} Here are the first {{ shown | length }} of these.
{%- endif %}

</figcaption></figure>
{{ folded_end }}
{% elif task.counts_classes %}
<p class="small">No institution released how many training {{ domain.samples }} it has of each
class.</p>
{% endif %}
</section>

<section id="curriculum">
<h2>How it was taught</h2>
{% if figures.curriculum %}
<figure>{{ figures.curriculum }}
<figcaption>Difficulty is measured by the coordinator, from the fused answer and the student.
{% if self_paced %}
The curriculum weighs each sample by it; lambda sets how hard a sample may be before it counts
less.
{% else %}
The run had no curriculum.
{% endif %}
</figcaption></figure>
{% elif figures.loss %}
<figure>{{ figures.loss }}
<figcaption>The run recorded no curriculum; this is the student's loss.</figcaption></figure>
{% else %}
<p>No training steps were recorded.</p>
{% endif %}
{% if figures.difficulty %}
<h3>Difficulty by institution</h3>
<figure>{{ figures.difficulty }}
<figcaption>Mean loss of the student against each institution's own answers.</figcaption></figure>
{% endif %}
{% if figures.generator %}
<h3>The generator's objective</h3>
<figure>{{ figures.generator }}
<figcaption>Every term is minimised.</figcaption></figure>
{% endif %}
</section>

<section id="{{ domain.samples }}">
<h2>What was asked</h2>
<p>No {{ domain.sample }} here was taken from an institution's data: the coordinator invented every
one{% if public %}, or has it from public data,{% endif %} and asked the teachers what they
{{ domain.answered }}.</p>
{% if figures.origins %}
<figure>{{ figures.origins }}
<figcaption>{{ task.entropy_note.format(sample=domain.sample) }}</figcaption></figure>
{% else %}
<p class="small">Where the {{ domain.samples }} came from was not recorded.</p>
{% endif %}
{{ public_pool }}
{% if samples %}
{{ samples }}
{% elif progress %}
<p class="small">A few of the {{ domain.samples }} are shown when the run is over.</p>
{% else %}
<p class="small">No {{ domain.samples }} were kept.</p>
{% endif %}
</section>

{% include "privacy" %}

<section id="record">
<h2>How to make it again</h2>
{% if not progress %}
<p>The page is made from the other files in its folder. To rebuild it:</p>
<pre>{{ rebuild }}</pre>
{% endif %}
<p>The same institutions, configuration, seed, versions and machine give the same run.</p>
<div class="columns">
<div>
<h3>Configuration, as resolved</h3>
<div class="table"><table class="plain">
{% for key, value in settings %}
<tr><td class="k">{{ key }}</td><td class="k">{{ value }}</td></tr>
{% endfor %}
</table></div>
</div>
<div>
<h3>Versions</h3>
<div class="table"><table class="plain">
{% for package, version in result.versions | dictsort %}
<tr><td class="k">{{ package }}</td><td class="k">{{ version }}</td></tr>
{% endfor %}
</table></div>
{% if files %}
<h3>Files</h3>
{% endif %}
<div class="table"><table class="plain">
{% for file, bytes in files | dictsort %}
<tr><td class="k">{{ file }}</td><td class="n">{{ bytes | size }}</td></tr>
{% endfor %}
</table></div>
{% if result.onnx and result.onnx.skipped %}
<p class="small">No <code>student.onnx</code>: {{ result.onnx.skipped }}.</p>
{% elif result.onnx and result.onnx.max_difference is not none %}
<p class="small"><code>student.onnx</code> against torch on random {{ domain.samples }}:
{%- if task.counts_classes %} the same class on {{ result.onnx.argmax_agreement | percent }}, logits
{%- else %} outputs
{%- endif %} at most {{ "%.1e" % result.onnx.max_difference }} apart.</p>
{% endif %}
</div>
</div>
</section>
</main>
{% if script %}
<script>{{ script }}</script>
{% endif %}
</body>
</html>
"""
