"""The model card of a run's student, ``README.md``: front matter for model hubs, then Markdown.

The front matter has the keys that the Hugging Face Hub reads (model cards, "Model card metadata").
A license and a language are for the coordinator to add: a run does not know them.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from safetensors import safe_open

from fedkd.server.report.formatting import UNKNOWN, count, guarantee, percent, plural
from fedkd.server.report.main_scores import MainScore, main_score
from fedkd.server.report.page_kinds import domain_page
from fedkd.server.report.public_pool.public_pool_section import has_public_samples
from fedkd.server.report.records.result_schema import Result
from fedkd.server.report.records.run_folder import RESULT, load_result, write_atomic

CARD = "README.md"

_FRONT_MATTER = """\
---
library_name: fedkd
pipeline_tag: {pipeline}
tags:
- knowledge-distillation
- data-free-knowledge-distillation
- federated-learning
{index}---
"""

_TEXT = """\
# {{ name | md }}: one student of {{ institutions }}

{{ model | md }}, trained by fedkd with the method
{{ (result.method_title or result.method) | md }}. It has {{ parameters }}.

## What it was trained on

**No institution's data.** The coordinator {{ "chose public" if public else "invented" }}
{{ domain.samples }}, asked {{ institutions }} what they {{ domain.answered }}, and trained the
student on the fused answers. Each was asked about {{ asked | count }} {{ domain.samples }} at most.
The institutions' data and models never left them.

{% if result.growth %}
It goes on with the student of the run {{ result.growth.run | md }}, which stood for its
{{ result.growth.classes | length }} classes; the institutions above brought
{{ result.growth.new_classes | length }} more. What the earlier run's institutions answered was
asked in that run, and its README and result tell of their privacy.

{% endif %}
The student may still reveal what the answers revealed: see Privacy.

## Scores

{% if score.of(result.student) is not none %}
| | {{ score.name }} on test data |
|---|---:|
| student, after the last step | {{ score.text(score.of(result.student)) }} |
| ensemble of its teachers | {{ score.text(score.of(result.ensemble)) }} |
{% for name, own in (result.student.task_accuracy or {}).items() %}
| student, accuracy of the task {{ name | md }} | {{ own | percent }} |
{% endfor %}
{% else %}
The coordinator has no test data, so the true {{ score.name }} is not known.
{% endif %}
{% if close %}

On {{ close.count | count }} {{ "" if public else "invented " }}{{ domain.samples }}
that were held back from training
{%- if close.relation_correlation is not none %}, its relations correlate with those of the
institutions by **{{ "%.3f" % close.relation_correlation }}**.
{%- elif close.r2 is none %}, the student decides as the ensemble on
**{{ close.agreement | percent }}**.
{%- else %}, R² to the ensemble is **{{ "%.3f" % close.r2 }}**.
{%- endif %} That says how well it follows its teachers, and not how good they are.
{% endif %}

## Privacy

| institution | {{ domain.samples }} asked | guarantee of differential privacy |
|---|---:|---|
{% for teacher in shown %}
| {{ teacher.name | md }} | {{ teacher.samples_asked | count }} | {{ teacher | guarantee }}
{%- if teacher.mechanism %} by {{ teacher.mechanism | md }}{% endif %} |
{% endfor %}
{% if others %}

And {{ others | count }} more, see `result.json`.
{% endif %}

Guarantees are the institutions' own statements, and cover all that was answered. Where none is
guaranteed, whoever has the student may infer something about single training records.

## How to load it

```sh
pip install fedkd
```

```python
{{ code }}
```
{% if onnx %}

Without fedkd, by ONNX Runtime:

```python
{{ onnx }}
```
{% endif %}

## How it was made

By fedkd {{ result.versions.get("fedkd", "of unknown version") | md }} with seed {{ result.seed }},
in {{ result.student_steps | count }} student steps. `report.html` in the folder of the run tells
all of it, `result.json` has every setting.
"""

_IMAGE_CODE = """\
import torch

import fedkd

student = fedkd.load("student.safetensors")  # student=NETWORK, where it is a network of your own
images = torch.rand(4, {sizes})  # yours: float in [0, 1], (B, C, H, W)
with torch.no_grad():
    answers = student.network(images).softmax(1)
print([(student.classes[k], float(p[k])) for p, k in zip(answers, answers.argmax(1).tolist())])"""

_TASK_IMAGE_CODE = """\
import torch

import fedkd

student = fedkd.load("student.safetensors")  # student=NETWORK, where it is a network of your own
images = torch.rand(4, {sizes})  # yours: float in [0, 1], (B, C, H, W)
print(student.predict_tasks(images))"""

_EMBEDDING_CODE = """\
import torch

import fedkd

student = fedkd.load("student.safetensors")  # student=NETWORK, where it is a network of your own
images = torch.rand(4, {sizes})  # yours: float in [0, 1], (B, C, H, W)
with torch.no_grad():
    embeddings = torch.nn.functional.normalize(student.network(images))
print(embeddings @ embeddings.T)  # how alike every two are, from -1 to 1"""

_TABLE_CODE = """\
import torch

import fedkd
from fedkd.protocol import encode_rows

student = fedkd.load("student.safetensors")  # student=NETWORK, where it is a network of your own
rows = torch.tensor([[c.low for c in student.columns]], dtype=torch.float64)  # yours: (B, D), in
# units; of a column with levels the index of the level
print(student.{predict}(encode_rows(rows, student.columns)))"""

_ONNX_CODE = """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("student.onnx")
samples = np.random.rand(4, {sizes}).astype(np.float32)  # in [0, 1]
(outputs,) = session.run(None, {{"images": samples}})
print(outputs.shape)"""


def write_model_card(folder: Path) -> Path | None:
    """Write ``README.md`` to the folder of a finished run, unless there is one or no student.

    Raises:
        DataError: the result cannot be read.
    """
    card, student = folder / CARD, folder / "student.safetensors"
    if not student.is_file():
        return None
    if not card.exists():
        with safe_open(student, "pt") as file:
            notes = json.loads(file.metadata()["fedkd"])
        text = model_card(load_result(folder / RESULT), folder.resolve().name, notes)
        write_atomic(card, text.encode("utf-8", errors="replace"))
    return card


def model_card(result: Result, name: str, notes: Mapping[str, str]) -> str:
    """The card as text.

    Args:
        result: of the run.
        name: of the model.
        notes: metadata of the student's file.
    """
    domain, score = domain_page(result.domain), main_score(result.task)
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(count=count, percent=percent, guarantee=guarantee, md=markdown_text)
    sizes = notes["shape"].replace("x", ", ")
    has_onnx = result.onnx is not None and result.onnx.skipped is None
    shown = result.teachers[:40]
    parameters = (result.student.model_extra or {}).get("parameters")
    text = environment.from_string(_TEXT).render(
        name=name,
        result=result,
        model=notes.get("student", notes["model"]),
        institutions=plural(len(result.teachers), "institution"),
        parameters=f"{count(parameters)} parameters" if parameters else UNKNOWN + " size",
        domain=domain,
        public=has_public_samples(result),
        score=score,
        close=result.student.held_back,
        asked=max((teacher.samples_asked for teacher in result.teachers), default=0),
        shown=shown,
        others=len(result.teachers) - len(shown),
        code=_CODES[str(result.domain["kind"])](result, notes),
        onnx=_ONNX_CODE.format(sizes=sizes) if has_onnx else "",
    )
    return _front_matter(result, name, score) + re.sub(r"\n{3,}", "\n\n", text)


def markdown_text(value: object) -> str:
    """A name on one line, in which nothing is Markdown or HTML."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~!])", r"\\\1", line)


def _front_matter(result: Result, name: str, score: MainScore) -> str:
    """YAML, whose strings are written as JSON, which is YAML too."""
    task = _PIPELINES[str(result.domain["kind"]), str(result.task["kind"])]
    value = score.of(result.student)
    index: dict[str, Any] = {}
    if value is not None:
        data = str(result.config.get("institutions", {}).get("data", "private"))
        metric = {"type": score.field, "value": value, "name": f"{score.name} on test data"}
        scored = {
            "task": {"type": task},
            "dataset": {"type": data, "name": data},
            "metrics": [metric],
        }
        index = {"name": name, "results": [scored]}
    text = f"model-index:\n- {json.dumps(index, ensure_ascii=False)}\n" if index else ""
    return _FRONT_MATTER.format(pipeline=task, index=text)


def _image_code(result: Result, notes: Mapping[str, str]) -> str:
    codes = {"tasks": _TASK_IMAGE_CODE, "embedding": _EMBEDDING_CODE}
    code = codes.get(str(result.task["kind"]), _IMAGE_CODE)
    return code.format(sizes=notes["shape"].replace("x", ", "))


def _table_code(result: Result, notes: Mapping[str, str]) -> str:
    del notes
    predict = {"classes": "predict", "numbers": "predict_numbers", "tasks": "predict_tasks"}
    return _TABLE_CODE.format(predict=predict[str(result.task["kind"])])


_CODES: dict[str, Callable[[Result, Mapping[str, str]], str]] = {
    "images": _image_code,
    "table": _table_code,
}
"""By kind of domain."""
_PIPELINES = {
    ("images", "classes"): "image-classification",
    ("images", "numbers"): "other",
    ("images", "tasks"): "image-classification",
    ("images", "embedding"): "image-feature-extraction",
    ("table", "classes"): "tabular-classification",
    ("table", "numbers"): "tabular-regression",
    ("table", "tasks"): "tabular-classification",
}
"""Name of the task at the Hub, by kinds of domain and task."""
