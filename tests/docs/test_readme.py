"""The README's Python runs as it stands."""

import re
from pathlib import Path

import torch
from torch import nn

from fedkd.client.vault.training.settings import SupervisedSettings
from fedkd.client.vault.training.supervised import train_teacher
from fedkd.data.datasets import open_data
from fedkd.evaluation import accuracy, predict_logits
from fedkd.models import ModuleTeacher, build_network

README = Path(__file__).parents[2] / "README.md"


def taught(part: slice) -> nn.Module:
    """A module trained on some of digits."""
    data = open_data("digits")
    images, labels = data.train_images[part], data.train_labels[part]
    teacher = train_teacher("cnn", images, labels, 10, SupervisedSettings(epochs=6), 0)
    assert isinstance(teacher, ModuleTeacher)
    return teacher.module


def test_the_ten_lines_of_the_readme_distil_a_student() -> None:
    marked = r"<!-- tests/docs/test_readme.py.*?-->\n```python\n(.*?)```"
    blocks = re.findall(marked, README.read_text(), re.S)
    assert len(blocks) == 1
    student = build_network("cnn", 10, (1, 8, 8), seed=0)
    data = open_data("digits")
    before = accuracy(predict_logits(student, data.test_images), data.test_labels)
    torch.set_num_threads(1)
    names = {"north": taught(slice(0, 700)), "south": taught(slice(700, None)), "student": student}
    exec(compile(blocks[0], str(README), "exec"), names)
    after = accuracy(predict_logits(student, data.test_images), data.test_labels)
    assert before < 0.4
    assert after > 0.85


def test_every_command_of_the_readme_is_there() -> None:
    text = README.read_text()
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
