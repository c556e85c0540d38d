"""The README's commands are there, and the loop of the page for researchers runs as it stands."""

import re
from pathlib import Path

import click
import pytest
import torch
import typer.main
from torch import nn

from fedkd.client.cli import app as client
from fedkd.client.vault.training.settings import SupervisedSettings
from fedkd.client.vault.training.supervised import train_teacher
from fedkd.data.datasets import open_data
from fedkd.evaluation import accuracy, predict_logits
from fedkd.models import ModuleTeacher, build_network
from fedkd.server.cli import app as server
from fedkd.simulations.cli import app as simulation

README = Path(__file__).parents[2] / "README.md"
RESEARCHER = README.parent / "docs" / "start" / "researcher.md"
APPS = {"fedkd": simulation, "fedkd-server": server, "fedkd-client": client}
COMMAND = re.compile(
    r"^(fedkd\S*) ((?:ledger |audit )?)([a-z]+(?: \| [a-z]+)*)((?: [^ ]+)*)", re.MULTILINE
)


def taught(part: slice) -> nn.Module:
    """A module trained on some of digits."""
    data = open_data("digits")
    images, labels = data.train_images[part], data.train_labels[part]
    teacher = train_teacher("cnn", images, labels, 10, SupervisedSettings(epochs=6), 0)
    assert isinstance(teacher, ModuleTeacher)
    return teacher.module


def test_the_ten_lines_for_researchers_distil_a_student() -> None:
    marked = r"<!-- tests/docs/test_readme.py.*?-->\n```python\n(.*?)```"
    blocks = re.findall(marked, RESEARCHER.read_text(), re.S)
    assert len(blocks) == 1
    student = build_network("cnn", 10, (1, 8, 8), seed=0)
    data = open_data("digits")
    before = accuracy(predict_logits(student, data.test_images), data.test_labels)
    torch.set_num_threads(1)
    names = {"north": taught(slice(0, 700)), "south": taught(slice(700, None)), "student": student}
    exec(compile(blocks[0], str(RESEARCHER), "exec"), names)
    after = accuracy(predict_logits(student, data.test_images), data.test_labels)
    assert before < 0.4
    assert after > 0.85


def test_every_command_of_the_readme_is_there() -> None:
    text = README.read_text()
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def commands() -> list[tuple[str, ...]]:
    """Every command of the README's list: program, group, command, the words after it."""
    block = README.read_text().split("## Commands")[1].split("```")[1]
    found = COMMAND.findall(block)
    return [
        (program, group.strip(), command, words)
        for program, group, each, words in found
        for command in each.split(" | ")
    ]


@pytest.mark.parametrize(("program", "group", "command", "words"), commands())
def test_a_command_of_the_readme_takes_as_many_arguments(
    program: str, group: str, command: str, words: str
) -> None:
    known = typer.main.get_command(APPS[program])
    for name in filter(None, (group, command)):
        assert isinstance(known, click.Group)
        known = known.commands[name]
    arguments = [one for one in known.params if isinstance(one, click.Argument)]
    given = len(re.findall(r"\b[A-Z]+\b", words))
    if "--" not in words:
        assert sum(one.required for one in arguments) <= given <= len(arguments)
