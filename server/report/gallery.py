"""The page's gallery of synthetic images: select, scale down, encode as PNG data URLs."""

import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from fedkd.server.report.formatting import count
from fedkd.server.report.output_format import class_name
from fedkd.server.report.records.run_folder import RunFolder
from fedkd.server.report.records.run_record import Gallery, RunRecord
from fedkd.server.report.records.sample_history import SampleHistory

HTML = """\
<h3>A few of them, in order of asking</h3>
{% for stage in stages %}
<div class="stage"><h3>{% if stage.first == stage.last %}at question <b>{{ stage.last | count }}</b>
{%- else %}questions <b>{{ stage.first | count }} to {{ stage.last | count }}</b>{% endif %}</h3>
<ul class="grid">
{% for picture in stage.pictures %}
<li><img src="{{ picture.source }}" width="72" height="72"
 alt="image{% if picture.label %}, {{ picture.label }}{% endif %}, from
 {{- " " + picture.origin }}">
{% if picture.label %}
<span><b>{{ picture.label }}</b> {{ "%.0f" % (100 * picture.confidence) }}%</span>
{% endif %}
<span class="origin" style="--dot:{{ colours.get(picture.origin, "var(--faint)") }}">
{{- picture.origin }}</span></li>
{% endfor %}
</ul></div>
{% endfor %}
<p class="small">Under each image: {{ note }}.</p>
"""
Label: TypeAlias = Callable[[int, Sequence[str]], str]
"""Index of what was answered and names of outputs -> what is written; empty: nothing."""
MAX_IMAGES = 48
"""Limit of images on a page."""
_LARGEST_SIDE = 64
_STAGES = 6


@dataclass(frozen=True)
class Picture:
    """One synthetic image with its fused label."""

    source: str
    """A ``data:`` URL of a PNG."""
    width: int
    height: int
    origin: str
    label: str
    """Name of its class; empty where nothing is named."""
    confidence: float
    """Of that label, in [0, 1]."""


@dataclass(frozen=True)
class Stage:
    """Pictures of one interval of the run."""

    first: int
    """Samples asked of each teacher when the first of them was asked about."""
    last: int
    pictures: Sequence[Picture]


def keep_gallery(folder: RunFolder, history: SampleHistory) -> None:
    """Write images from the whole run for the page."""
    picked = history.evenly(MAX_IMAGES)
    label, confidence = history.task.headline(history.targets[picked])
    folder.write_gallery(
        Gallery(
            history.images[picked].numpy(),
            history.origin[picked.numpy()],
            history.asked_at[picked.numpy()],
            label.numpy(),
            confidence.numpy(),
        )
    )


def gallery_section(
    record: RunRecord, colours: Mapping[str, str], label: Label, note: str
) -> Markup | None:
    """Images of ``record`` as HTML, with a colour for each origin; None where none were kept.

    ``label`` names what was answered, ``note`` says what stands under an image.
    """
    if record.gallery is None:
        return None
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(count=count)
    found = stages(record.gallery, record.result.classes, label)
    template = environment.from_string(HTML)
    return Markup(template.render(stages=found, colours=colours, note=note).rstrip("\n"))


def stages(gallery: Gallery, classes: Sequence[str] = (), label: Label = class_name) -> list[Stage]:
    """At most `MAX_IMAGES` images of ``gallery`` in order of time, in a few intervals of the run.

    ``classes`` are their names; a class without a name is shown by its number.
    """
    order = np.argsort(gallery.asked_at, kind="stable")
    if len(order) > MAX_IMAGES:
        order = order[np.linspace(0, len(order) - 1, MAX_IMAGES).round().astype(int)]
    return [
        Stage(
            first=int(gallery.asked_at[part[0]]),
            last=int(gallery.asked_at[part[-1]]),
            pictures=[_picture(gallery, index, classes, label) for index in part],
        )
        for part in _intervals(order, gallery.asked_at)
    ]


def _intervals(
    order: NDArray[np.int64], asked_at: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """One interval for each time of asking, or a few of equal size if there are many times."""
    changes = np.flatnonzero(np.diff(asked_at[order])) + 1
    cut: Sequence[int] | int = changes.tolist() if len(changes) < _STAGES else _STAGES
    parts = np.split(order, cut) if not isinstance(cut, int) else np.array_split(order, cut)
    return (part for part in parts if len(part))


def _picture(gallery: Gallery, index: int, classes: Sequence[str], label: Label) -> Picture:
    image = _image(gallery.images[index])
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return Picture(
        source=f"data:image/png;base64,{encoded}",
        width=image.width,
        height=image.height,
        origin=str(gallery.origin[index]),
        label=label(int(gallery.label[index]), classes),
        confidence=float(gallery.confidence[index]),
    )


def _image(pixels: NDArray[np.uint8]) -> Image.Image:
    """``(C, H, W)`` in colour if C is 3, else the mean of its channels in grey."""
    if len(pixels) == 3:
        image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    else:
        image = Image.fromarray(pixels.mean(axis=0).round().astype(np.uint8))
    if max(image.size) > _LARGEST_SIDE:
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.BOX)
    return image
