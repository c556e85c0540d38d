"""Jinja template of one institution's section of the report page."""

INSTITUTION_HTML = """\
<details class="section">
<summary><b>{{ section.teacher.name }}</b>
<span>{{ section.summary }}</span>
<span{% if section.teacher.epsilon is none %} class="none"{% endif %}>
{{- "no guarantee" if section.teacher.epsilon is none
 else section.teacher | guarantee }}</span></summary>
<div class="inside" id="institution-{{ section.number }}">
{% set teacher = section.teacher %}
{% set guarantee = teacher.guarantee %}
<h3>What it was asked</h3>
<dl class="says">
<dt>{{ domain.samples | capitalize }}</dt><dd>{{ teacher.samples_asked | count }} samples
{%- if teacher.questions %} in {{ teacher.questions | count }} questions
{%- if teacher.samples_pulled_back %}, pull-backs among them{% endif %}
{%- if teacher.recipes %}; {{ teacher.recipes | count }} times it rendered the
{{ domain.samples }} itself
{%- endif %}{% endif %}
{%- if teacher.sample_cap is not none %}; its policy answers at most
{{ teacher.sample_cap | count }}{% endif %}</dd>
<dt>Gradients</dt><dd>
{%- if teacher.samples_pulled_back %}with respect to the {{ domain.values }} of
{{ teacher.samples_pulled_back | count }} samples
{%- else %}none{% if teacher.pull_back %}, though its policy allows them{% endif %}{% endif %}</dd>
{% if section.asked_signals %}
<dt>Signals</dt><dd>{{ section.asked_signals }}</dd>
{% endif %}
<dt>Time of an answer</dt><dd>
{%- if teacher.answer_seconds_median is none %}not measured
{%- else %}half of them within {{ teacher.answer_seconds_median | seconds }}, nine of ten within
{{ teacher.answer_seconds_p90 | seconds }}{% endif %}</dd>
<dt>Over the run</dt><dd>{{ section.history | join("; ") or "took part throughout" }}</dd>
</dl>
<h3>What it released</h3>
<dl class="says">
<dt>Its policy releases</dt><dd>{{ section.signals }}
{%- if teacher.pull_back %}, and gradients of these{% endif %}</dd>
<dt>{{ task.outputs }}</dt><dd>{{ section.classes }}</dd>
{% if task.counts_classes %}
<dt>Class counts</dt><dd>
{%- if teacher.class_counts %}released:
{{ teacher.class_counts | sum | count }} training {{ domain.samples }} in all
{%- else %}not released{% endif %}</dd>
{% endif %}
<dt>Scores of the student</dt><dd>
{%- if teacher.tells_scores is none %}not recorded
{%- elif teacher.tells_scores %}its policy releases them, on its private test data
{%- else %}not released{% endif %}</dd>
<dt>Its own {{ teacher_score.name }}</dt>
<dd>{{ teacher_score.text(teacher_score.of(teacher)) }}</dd>
<dt>Refusals</dt><dd>{{ teacher.refusals | count }}
{%- if section.reasons %}; when it did not answer:
{{ section.reasons | join("; ") }}{% endif %}</dd>
<dt>Bytes</dt><dd>
{%- if teacher.bytes_received or teacher.bytes_sent %}{{ teacher.bytes_received | size }} from it,
{{ teacher.bytes_sent | size }} to it
{%- else %}not counted{% endif %}</dd>
</dl>
<h3>What it cost</h3>
{% if teacher.epsilon is none %}
<p><span class="none">It guarantees no differential privacy</span>, so what this cost cannot be
put into a number. Nothing bounds what its answers reveal of single training records, however few
were asked for.</p>
{% else %}
<p><b>{{ teacher | guarantee }}</b>: whatever anybody concludes from what is covered is at most
{{ section.factor }} times likelier with one protected unit in the training data than without it, or
the other way round
{%- if teacher.delta is not none %}, but for a chance of
{{ teacher.delta | small }}{% endif %}.</p>
<dl class="says">
<dt>What is protected</dt><dd>{{ guarantee and guarantee.unit or "not recorded by itself" }}</dd>
<dt>Neighbouring data sets</dt><dd>
{%- if guarantee and guarantee.adjacency %}differ by one unit: {{ guarantee.adjacency }}
{%- else %}not recorded by itself{% endif %}</dd>
<dt>Mechanism</dt><dd>{{ guarantee and guarantee.mechanism or teacher.mechanism or "not recorded" }}
{%- if guarantee %}
{%- if guarantee.steps is not none %}, {{ guarantee.steps | count }} noisy steps{% endif %}
{%- if guarantee.sampling_rate is not none %}, each unit in a step with a chance of
{{ "%.4g" % guarantee.sampling_rate }}{% endif %}
{%- if guarantee.clipping is not none %}, clipped to {{ "%.4g" % guarantee.clipping }}{% endif %}
{%- if guarantee.noise_multiplier is not none %}, noise of
{{ "%.4g" % guarantee.noise_multiplier }} times that{% endif %}
{%- if guarantee.accountant %}; ε by the accountant {{ guarantee.accountant }}{% endif %}
{%- endif %}</dd>
</dl>
<h3>What the claim covers</h3>
{% if section.trained_privately %}
<p>The teacher itself was trained with noise. So everything computed from it is covered: its
answers here, their gradients, the student, and answers to whoever asks next, however many.</p>
{% else %}
<p>What was released by this mechanism, and whatever is computed from that, the student among
it.</p>
{% endif %}
<h3>What it does not cover</h3>
<ul>
<li>When an answer came, and how long it took.</li>
<li>What it says of itself: that it takes part, its name, its classes
{%- if teacher.class_counts %}, its class counts{% endif %}, its policy, its refusals.</li>
<li>Scores and accuracies on its test data
{%- if teacher.tells_scores %}, which its policy releases{% endif %}: the teacher was not trained on
those {{ domain.samples }}.</li>
<li>The choice of settings, where it was made by looking at the same data.</li>
{% if guarantee and guarantee.unpromised %}
<li>Earlier answers about the same data: by its ledger, {{ guarantee.unpromised | count }}
{{ domain.samples }} were answered without any guarantee. The guarantee is of what is released
since.</li>
{% endif %}
<li>Other models of the same data that stand in no ledger of its own. Their ε and δ add to
these.</li>
<li>More than one unit: somebody of whom there are n has n times this ε, and more of the δ.</li>
</ul>
<p class="small">All of this is the institution's own statement. The coordinator cannot check
it.</p>
{% endif %}
</div>
</details>
"""
