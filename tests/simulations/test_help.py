"""The text of every ``--help``: complete, without markup, instant; versions and completion."""

import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from importlib.metadata import version

import click
import pytest
import typer
from typer.models import ArgumentInfo, OptionInfo

from fedkd.client import cli as client
from fedkd.process.command_line import App
from fedkd.server import cli as server
from fedkd.simulations import cli as simulations

APPS: dict[str, App] = {
    "fedkd": simulations.app,
    "fedkd-client": client.app,
    "fedkd-server": server.app,
}
MAINS = {
    "fedkd": "fedkd.simulations.cli",
    "fedkd-client": "fedkd.client.cli",
    "fedkd-server": "fedkd.server.cli",
}


def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command and group by its words, with a context of 80 columns."""

    def below(
        words: str, command: click.Command, parent: click.Context | None
    ) -> Iterator[tuple[str, click.Command, click.Context]]:
        context = click.Context(command, parent, words.split()[-1], terminal_width=80)
        yield words, command, context
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from below(f"{words} {name}", inner, context)

    for name, app in APPS.items():
        yield from below(name, typer.main.get_command(app), None)


COMMANDS = [pytest.param(*each, id=each[0]) for each in commands()]


def declared(command: click.Command) -> dict[str, str]:
    """The help of each argument and option, as the source has it, by name of parameter."""
    function = inspect.unwrap(command.callback) if command.callback else None
    hints = typing.get_type_hints(function, include_extras=True) if function else {}
    return {
        name: info.help or ""
        for name, hint in hints.items()
        for info in getattr(hint, "__metadata__", ())
        if isinstance(info, ArgumentInfo | OptionInfo)
    }


def plain(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(("words", "command", "context"), COMMANDS)
def test_every_argument_and_option_is_explained_whole(
    words: str, command: click.Command, context: click.Context
) -> None:
    shown = plain(command.get_help(context))
    texts = declared(command)
    for parameter in command.params:
        name = parameter.name or ""
        if name in ("install_completion", "show_completion"):  # typer's own
            continue
        assert texts.get(name), f"{words}: {name} has no help"
        assert plain(texts[name]) in shown, f"{words}: the help of {name} is not shown whole"
        for option in parameter.opts if isinstance(parameter, click.Option) else ():
            assert option in shown
    assert command.help
    assert plain(command.help) in shown
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        assert inner.name in shown.split()


@pytest.mark.parametrize(("words", "command", "context"), COMMANDS)
def test_help_says_each_default_once(
    words: str, command: click.Command, context: click.Context
) -> None:
    shown = plain(command.get_help(context))
    assert not re.search(r"\[[^\[\]]*\]\.? +\[default", shown), f"{words} says a default twice"


def test_every_command_is_there() -> None:
    found = {str(each.id) for each in COMMANDS}
    assert {"fedkd run", "fedkd audit membership", "fedkd-client ledger verify"} <= found
    assert {"fedkd-server run", "fedkd-server certificates", "fedkd compare"} <= found


@pytest.mark.parametrize("name", APPS)
def test_the_version_is_shown(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, name, "--version") == 0
    assert capsys.readouterr().out.strip() == version("fedkd")


@pytest.mark.parametrize("name", APPS)
def test_the_shell_completes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    asked = {variable: "complete_bash", "COMP_WORDS": f"{name} ru", "COMP_CWORD": "1"}
    if name == "fedkd-client":
        asked["COMP_WORDS"] = f"{name} se"
    for key, value in asked.items():
        monkeypatch.setenv(key, value)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.argv = [{name!r}]; import {MAINS[name]} as m; m.main()",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split()[:1] == ["serve" if name == "fedkd-client" else "run"], done.stderr


@pytest.mark.parametrize(
    ("name", "typo"), [(n, t) for n, t in zip(APPS, ("rum", "sreve", "rum"), strict=True)]
)
def test_a_typo_is_corrected_once_in_one_line(
    name: str, typo: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, name, typo) == 2
    printed = capsys.readouterr().err
    assert printed.count("Did you mean") == 1
    assert len(printed.splitlines()) == 1
    assert printed.startswith(f"{name}: ")


@pytest.mark.parametrize("name", APPS)
def test_help_waits_for_nothing_slow(name: str) -> None:
    code = (
        f"import sys; sys.argv = [{name!r}, '--help']\n"
        f"from {MAINS[name]} import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "slow = {'torch', 'grpc', 'flwr', 'numpy', 'pydantic', 'rich', 'PIL'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--version" in done.stdout


def status(monkeypatch: pytest.MonkeyPatch, name: str, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", [name, *words])
    main = {"fedkd": simulations.main, "fedkd-client": client.main, "fedkd-server": server.main}
    with pytest.raises(SystemExit) as ended:
        main[name]()
    return int(ended.value.code or 0)
