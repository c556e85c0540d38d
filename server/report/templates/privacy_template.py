"""Jinja template of the part of the page on what privacy the run cost."""

PRIVACY_HTML = """\
<section id="privacy">
<h2>What privacy it cost</h2>
<div class="note-box"><p>
{% if not with_guarantee %}
No institution guarantees differential privacy. The answers of a teacher trained without
differential privacy carry no guarantee: whoever holds them may infer something about single
training records, and asking few questions does not bound how much.
{% elif with_guarantee | length < result.teachers | length %}
{{ with_guarantee | length }} of {{ result.teachers | length }} institutions guarantee differential
privacy, each with the figures below. The answers of a teacher trained without
differential privacy carry no guarantee.
{% else %}
Every institution guarantees differential privacy, with the figures below.
{% endif %}
</p></div>
{% if progress %}
<p class="small">What each institution was asked and released is shown when the run is over.</p>
{% else %}
<p>Each by itself: what it was asked, what it released, what that cost it, and what is claimed of
it.</p>
{{ folded }}
{% for section in sections %}
{% include "institution" %}
{% endfor %}
{{ folded_end }}
{% endif %}
{% if with_guarantee %}
<p>A guarantee (ε, δ) says: whatever an observer concludes from everything that this teacher
answered becomes at most e<sup>ε</sup> times likelier, but for a chance of δ, by one protected
unit being in the training data or not. It is the institution's own statement; the coordinator
cannot check it, and this page repeats it.</p>
{% endif %}
{% if combined %}
<h3>All institutions together</h3>
<p><b>{{ combined.parallel }}</b> for every {{ combined.unit }} that lies at one institution only:
the largest of the guarantees, and not their sum. This holds exactly where all of the following is
so, none of which the coordinator can check.</p>
<ul>
<li>Each {{ combined.unit }} is at one institution. One that lies at several has the sum of their
guarantees: at most <b>{{ combined.summed }}</b>, where it lies at all of them.</li>
<li>Each institution chose its settings and trained without looking at what another had
answered.</li>
<li>What lies where was decided without looking at the data, or the division itself is public.</li>
<li>Neighbouring data sets differ by adding or removing one {{ combined.unit }}, as every
institution here says. Where one is replaced instead, and may so move to another institution, it is
twice the ε and more of the δ.</li>
</ul>
{% elif summed %}
<h3>All institutions together</h3>
<p>A unit that lies at every institution has the sum of their guarantees, at most
<b>{{ summed }}</b>. Nothing smaller is claimed here, since not every institution says that
neighbouring data sets differ by adding or removing one and the same kind of unit.</p>
{% endif %}
<h3>What is not covered</h3>
<ul>
{% if releasing %}
<li>Class counts, released by {{ releasing | abbreviated_names }}. They are a release of
their own, and lie inside a guarantee only where the institution charged them to it.</li>
{% endif %}
<li>{{ "Accuracies" if score.is_share else "Scores" }} on this page. Where the test data is
private, each is a further release.</li>
<li>When an answer came, how large it was, that it was refused, and that an institution took part
at all.</li>
<li>Another teacher of the same data; and where a teacher was not trained privately, the same one
asked again, by whomever. Costs add up, and only the owner's ledger adds them.</li>
<li>The student. It is made from the answers, so it reveals no more than they do, and may reveal
all that they do. Keep it as the answers would be kept.</li>
</ul>
</section>
"""
