"""The markup and the style sheet of a run's page. It knows no values.

They are constants and not files of their own, since a Flower bundle carries Python files only.
"""

CSS = """
:root {
  color-scheme: light;
  --ink: #1d2530; --soft: #5b6675; --line: #e3e7ec; --wash: #f6f7f9; --accent: #332288;
  --sans: "Inter", "Source Sans 3", system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, "SF Mono", "Cascadia Code", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
* { box-sizing: border-box; }
body {
  margin: 0; background: #fff; color: var(--ink);
  font: 15px/1.55 var(--sans); font-variant-numeric: tabular-nums;
}
main { max-width: 1064px; margin: 0 auto; padding: 48px 32px 72px; }
h1 { font-size: 32px; line-height: 1.2; letter-spacing: -.015em; margin: 4px 0 10px; }
h2 {
  font-size: 20px; letter-spacing: -.005em; margin: 0 0 6px;
  padding-top: 28px; border-top: 1px solid var(--line);
}
h3 { font-size: 15px; margin: 26px 0 6px; }
section { margin-top: 44px; }
p { margin: 6px 0 12px; max-width: 74ch; }
.eyebrow { color: var(--accent); font-weight: 600; font-size: 13px; overflow-wrap: anywhere; }
.facts { color: var(--soft); display: flex; flex-wrap: wrap; gap: 2px 22px; margin: 0; padding: 0;
  list-style: none; }
.facts b { color: var(--ink); font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(290px, 1fr)); gap: 12px;
  margin: 28px 0 0; }
.card { border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px 15px; }
.card dt { color: var(--soft); font-size: 13px; }
.card dd { margin: 0; overflow-wrap: anywhere; }
.card .value { font-size: 29px; font-weight: 650; line-height: 1.25; letter-spacing: -.02em; }
.card .note { color: var(--soft); font-size: 13px; }
.card.first { background: var(--accent); border-color: var(--accent); color: #fff; }
.card.first dt, .card.first .note { color: #d9d4f0; }
figure { margin: 16px 0 0; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 720px; height: auto; }
figure svg text { font-family: var(--sans) !important; }
figcaption, .small { color: var(--soft); font-size: 13px; max-width: 88ch; }
figcaption { margin-top: 6px; }
.table { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; width: 100%; min-width: 820px; font-size: 14px; }
table.plain { min-width: 0; }
sup { line-height: 0; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 12.5px; }
th, td { padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; }
th.n, td.n { text-align: right; white-space: nowrap; overflow-wrap: normal; }
td.name { font-weight: 600; min-width: 9em; }
td.wide { min-width: 14em; }
.bar { display: block; height: 4px; border-radius: 2px; background: var(--line); margin-top: 4px;
  min-width: 76px; }
.bar i { display: block; height: 4px; border-radius: 2px; background: var(--accent); }
.none { color: #9a3412; }
.stage { display: flex; gap: 20px; padding: 12px 0; border-bottom: 1px solid var(--line);
  break-inside: avoid; }
.stage h3 { flex: 0 0 118px; margin: 0; font-size: 13px; font-weight: 400; color: var(--soft); }
.stage h3 b { display: block; color: var(--ink); font-weight: 600; font-size: 14px; }
.grid { flex: 1; display: grid; grid-template-columns: repeat(auto-fill, minmax(77px, 1fr));
  gap: 12px 10px; margin: 0; padding: 0; list-style: none; }
.grid img { display: block; width: 72px; height: 72px; object-fit: contain; background: var(--wash);
  margin-bottom: 5px;
  border-radius: 4px; image-rendering: pixelated; }
.grid span { display: block; font-size: 11.5px; line-height: 1.35; color: var(--soft);
  overflow-wrap: anywhere; }
.grid span b { color: var(--ink); }
.grid .origin::before { content: ""; display: inline-block; width: 7px; height: 7px;
  border-radius: 50%; background: var(--dot); margin-right: 4px; }
.note-box { background: var(--wash); border-left: 3px solid var(--accent); padding: 12px 18px;
  border-radius: 0 8px 8px 0; margin: 14px 0; }
.note-box p { margin: 0; }
.columns { display: grid; grid-template-columns: 3fr 2fr; gap: 0 48px; }
.columns > div { min-width: 0; }
.plain td, .plain th { padding: 4px 14px 4px 0; font-size: 13px; }
.plain td.k:first-child { white-space: nowrap; padding-right: 28px; }
code, .plain td.k { font-family: var(--mono); font-size: 12.5px; }
pre { background: var(--wash); border-radius: 8px; padding: 12px 16px; overflow-x: auto;
  font: 13px/1.5 var(--mono); margin: 10px 0; }
li { margin: 5px 0; max-width: 80ch; }
@media (max-width: 760px) {
  main { padding: 24px 16px 48px; }
  .columns { grid-template-columns: 1fr; }
  .stage { flex-direction: column; gap: 8px; }
  .stage h3 { flex: none; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
}
@media print {
  @page { margin: 14mm; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  figure, .card, tr, .note-box { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  figure, .table { overflow: visible; }
  figure svg, table { min-width: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

HTML = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{ title }} – {{ name }}</title>
<style>{{ css }}</style>
</head>
<body>
<main>
<header>
<div class="eyebrow">{{ name }}</div>
<h1>{{ title }}</h1>
<ul class="facts">
<li>method <b>{{ result.method }}</b></li>
<li>engine <b>{{ result.engine }}</b></li>
<li>seed <b>{{ result.seed }}</b></li>
<li><b>{{ result.student_steps | count }}</b> student steps</li>
{% if result.generator_steps %}
<li><b>{{ result.generator_steps | count }}</b> generator steps</li>
{% endif %}
<li>took <b>{{ duration }}</b></li>
</ul>
<dl class="cards">
{% for card in cards %}
<div class="card{{ " first" if loop.first }}"><dt>{{ card.label }}</dt>
<dd class="value">{{ card.value }}</dd><dd class="note">{{ card.note }}</dd></div>
{% endfor %}
</dl>
</header>

<section id="accuracy">
<h2>What the student learned</h2>
{% if figures.accuracy %}
<figure>{{ figures.accuracy }}
<figcaption>Accuracy of the student on the test set. Dashed: the ensemble. Grey: each teacher by
itself. Training goes on after the last question, on the answers already given.</figcaption>
</figure>
{% else %}
<p>The student was not scored during this run.</p>
{% endif %}
{% if result.student.best_test_accuracy is not none %}
<p class="small">The figure that counts is that of the last student,
{{ result.student.accuracy | percent }}. The best on the way was
{{ result.student.best_test_accuracy | percent }}; picking it would be choosing by the test
set.</p>
{% endif %}
</section>

<section id="institutions">
<h2>Who taught it</h2>
<div class="table"><table>
<thead><tr><th>Institution</th><th>Model</th><th>Own accuracy</th><th class="n">Asked</th>
<th class="n">Pulled back</th><th class="n">Sent to it</th><th class="n">Received</th>
<th class="n">Refusals</th><th>Privacy</th></tr></thead>
<tbody>
{% for teacher in result.teachers %}
<tr><td class="name">{{ teacher.name }}</td><td>{{ teacher.model }}</td>
<td>{{ teacher.accuracy | percent }}{% if teacher.accuracy is not none %}<span class="bar"><i
 style="width:{{ "%.1f" % (100 * teacher.accuracy) }}%"></i></span>{% endif %}</td>
<td class="n">{{ teacher.samples_asked | count }}</td>
<td class="n">{{ teacher.samples_pulled_back | count }}</td>
<td class="n">{{ teacher.bytes_sent | size }}</td>
<td class="n">{{ teacher.bytes_received | size }}</td>
<td class="n">{{ teacher.refusals | count }}</td>
<td{% if teacher.epsilon is none %} class="none"{% endif %}>{{ teacher | promise }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="small">Samples, not batches: one image put to one teacher counts as one. A sample is
pulled back when the gradient with respect to its pixels was answered as well.</p>
{{ membership }}
{% if figures.counts %}
<h3>Training images of each class</h3>
<figure>{{ figures.counts }}
<figcaption>Told by {{ telling | length }} of {{ result.teachers | length }} institutions.
</figcaption></figure>
{% else %}
<p class="small">No institution told how many training images it has of each class.</p>
{% endif %}
</section>

<section id="curriculum">
<h2>How it was taught</h2>
{% if figures.curriculum %}
<figure>{{ figures.curriculum }}
<figcaption>Difficulty is measured by the coordinator, from the fused answer and the student. The
curriculum weighs each sample by it; the pace λ sets how hard a sample may be before it counts
less. Hardness ramps the generator's adversarial term, and only a run that trains a generator
uses it.</figcaption></figure>
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

<section id="images">
<h2>What was asked</h2>
<p>No image here was taken from an institution's data: the coordinator invented every one and
asked the teachers what they see in it.</p>
{% if figures.origins %}
<figure>{{ figures.origins }}
<figcaption>Class entropy is that of the classes which the teachers named: near zero, nearly
every image was given the same class and taught little.</figcaption></figure>
{% else %}
<p class="small">Where the images came from was not recorded.</p>
{% endif %}
{% if stages %}
<h3>A few of them, in order of asking</h3>
{% for stage in stages %}
<div class="stage"><h3>{% if stage.first == stage.last %}at question <b>{{ stage.last | count }}</b>
{%- else %}questions <b>{{ stage.first | count }} to {{ stage.last | count }}</b>{% endif %}</h3>
<ul class="grid">
{% for picture in stage.pictures %}
<li><img src="{{ picture.source }}" width="72" height="72"
 alt="invented image, {{ picture.label }}, from {{ picture.origin }}">
<span><b>{{ picture.label }}</b> {{ "%.0f" % (100 * picture.confidence) }}%</span>
<span class="origin" style="--dot:{{ colours.get(picture.origin, "#c9d0d9") }}">
{{- picture.origin }}</span></li>
{% endfor %}
</ul></div>
{% endfor %}
<p class="small">Under each image: the class of the teachers' fused answer, its probability, and
the origin of the image.</p>
{% else %}
<p class="small">No images were kept.</p>
{% endif %}
</section>

<section id="privacy">
<h2>What privacy it cost</h2>
<div class="note-box"><p>
{% if not promising %}
No institution promises differential privacy. The answers of a teacher trained without
differential privacy carry no guarantee: whoever holds them may infer something about single
training records, and asking few questions does not bound how much.
{% elif promising | length < result.teachers | length %}
{{ promising | length }} of {{ result.teachers | length }} institutions promise differential
privacy, each with the figures below. The answers of a teacher trained without
differential privacy carry no guarantee.
{% else %}
Every institution promises differential privacy, with the figures below.
{% endif %}
</p></div>
<div class="table"><table>
<thead><tr><th>Institution</th><th>What the coordinator holds of it</th><th>What it promises</th>
</tr></thead>
<tbody>
{% for teacher in result.teachers %}
<tr><td class="name">{{ teacher.name }}</td><td class="wide">{{ teacher | told }}</td>
<td class="wide">
{% if teacher.epsilon is none %}
<span class="none">none promised</span><br><span class="small">answers of a teacher trained
without differential privacy carry no guarantee</span>
{% else %}
<b>{{ teacher | promise }}</b><br><span class="small">
{{- teacher.mechanism or "the mechanism and what it protects were not recorded" }}</span>
{% endif %}
</td></tr>
{% endfor %}
</tbody></table></div>
{% if promising %}
<p>A promise (ε, δ) says: whatever an observer concludes from everything that this teacher
answered becomes at most e<sup>ε</sup> times likelier, but for a chance of δ, by one protected
unit being in the training data or not. It is the institution's own statement; the coordinator
cannot check it, and this page repeats it.</p>
{% endif %}
<h3>What is not covered</h3>
<ul>
{% if telling %}
<li>Class counts, told by {{ telling | join(", ") }}. They are a release of their own, and lie
inside a promise only where the institution charged them to it.</li>
{% endif %}
<li>Accuracies on this page. Where the test data is private, each is a further release.</li>
<li>When an answer came, how large it was, that it was refused, and that an institution took part
at all.</li>
<li>The same data asked again: by another run, another coordinator, or through a retrained
teacher. Costs add up, and only the owner's ledger adds them.</li>
<li>The student. It is made from the answers, so it reveals no more than they do, and may reveal
all that they do. Keep it as the answers would be kept.</li>
</ul>
</section>

<section id="record">
<h2>How to make it again</h2>
<p>The page is made from the other files in its folder. To rebuild it:</p>
<pre>{{ rebuild }}</pre>
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
<h3>Files</h3>
<div class="table"><table class="plain">
{% for file, bytes in files | dictsort %}
<tr><td class="k">{{ file }}</td><td class="n">{{ bytes | size }}</td></tr>
{% endfor %}
</table></div>
{% if result.onnx and result.onnx.skipped %}
<p class="small">No <code>student.onnx</code>: {{ result.onnx.skipped }}.</p>
{% elif result.onnx and result.onnx.max_difference is not none %}
<p class="small"><code>student.onnx</code> against torch on random images: the same class on
{{ result.onnx.argmax_agreement | percent }}, logits at most
{{ "%.1e" % result.onnx.max_difference }} apart.</p>
{% endif %}
</div>
</div>
</section>
</main>
</body>
</html>
"""
