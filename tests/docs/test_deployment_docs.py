"""The commands of docs/deployment.md are there, with the options that it names."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer.main

from fedkd.client.cli import app as client
from fedkd.client.config.owner_config import load_owner_config
from fedkd.server.cli import app as server
from fedkd.simulations.rehearsal.flwr_run import FLOWER_APP

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```\n(.*?)^```", (ROOT / "docs" / "deployment.md").read_text(), re.S | re.M)
LINES = [
    line.strip() for block in BLOCKS for line in re.sub(r"\\\n", " ", block).splitlines() if line
]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("fedkd-")])
def test_a_command_takes_the_words_of_the_page(line: str) -> None:
    name, *words = shlex.split(re.split(r" >|&", line)[0])
    command = typer.main.get_command({"fedkd-server": server, "fedkd-client": client}[name])
    context = click.Context(command)
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
        context = click.Context(command, parent=context)
    _, left, _ = command.make_parser(context).parse_args(args=words)
    assert not left


def test_make_has_the_targets_of_the_page() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [line.split()[1] for line in LINES if line.startswith("make ")]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_join_tokens_are_written_where_nobody_else_reads_and_their_list_is_deleted() -> None:
    words = [line.split()[:2] for line in LINES]
    issued = words.index(["fedkd-server", "token"])
    assert words.index(["umask", "077"]) < issued < words.index(["rm", "issued"])


def test_an_owner_may_write_the_file_of_the_page(tmp_path: Path) -> None:
    written = next(
        re.search(r"<<END\n(name = .*?)END\n", block, re.S)
        for block in BLOCKS
        if "[policy]" in block
    )
    assert written is not None
    text = re.sub(r"^index = .*$", "index = 0", written[1].replace("$name", "north"), flags=re.M)
    (tmp_path / "owner.toml").write_text(text)
    owner = load_owner_config(tmp_path / "owner.toml")
    assert (owner.name, owner.servers) == ("north", {"127.0.0.1:9092"})


def test_flower_has_the_run_configuration_of_the_page() -> None:
    import tomllib

    app = tomllib.loads((FLOWER_APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    run = next(line for line in LINES if line.startswith("flwr run"))
    named = re.findall(r"([\w-]+)='", run) + re.findall(r"(\w+)=\d+ tls", run)
    assert {"experiment", "tls", "address", "out", "set", "rounds"} == set(named)
    assert set(named) | {"advertised"} <= app["config"].keys()
