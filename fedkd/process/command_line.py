"""Shared by the three commands: help that is shown whole, ``--version``, errors in one line.

Nothing slow is imported, so that ``--help`` does not wait. Help is plain text: rich would take
words in square brackets for markup.
"""

import inspect
import sys
import typing
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import click
import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import ArgumentInfo

from fedkd.errors import FedkdError

MISTAKE = 2
"""Exit status of an error that is fedkd's own, or of usage."""
INTERRUPTED = 130


class _PlainHelp(click.Command):
    """Help whose arguments and options are explained once, as they are written.

    typer before 0.21 leaves the help of arguments to click 8.5, which was not given it, and escapes
    defaults for rich.
    """

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Nothing: click 8.5 would list them apart from the options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """All arguments, then all options, then a group's commands."""
        texts = _argument_help(self.callback) if self.callback else {}
        arguments = [
            (parameter.make_metavar(ctx), texts.get(parameter.name or "", ""))
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Argument)
        ]
        options = [
            record
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option)
            and (record := click.Option.get_help_record(parameter, ctx)) is not None
        ]
        for title, records in (("Arguments", arguments), ("Options", options)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


class Command(_PlainHelp, TyperCommand):
    """A command."""


class Group(_PlainHelp, TyperGroup):
    """A group of commands."""


class App(typer.Typer):
    """A command, or a group of commands within one.

    Args:
        help: in one sentence.
        version: whether it has ``--version`` and shell completion; of the command itself, not of a
            group within it.
    """

    def __init__(self, help: str, *, version: bool = False) -> None:  # noqa: A002
        super().__init__(
            cls=Group,
            help=help,
            add_completion=version,
            no_args_is_help=True,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            # click suggests by itself where it knows this error.
            suggest_commands=not hasattr(click.exceptions, "NoSuchCommand"),
        )
        if version:
            self.callback(cls=Group)(_options)

    def command(self, *args: Any, **settings: Any) -> Callable[[Any], Any]:
        """See `typer.Typer.command`."""
        return super().command(*args, **{"cls": Command, **settings})


def main(app: App, name: str) -> None:
    """Run a command. Every error is one line; `MISTAKE` is the status of fedkd's own and of usage.

    Args:
        app: the command.
        name: as it is typed.
    """
    warnings.showwarning = lambda message, *_: print(f"{name}: {message}", file=sys.stderr)
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED:  # typer makes a status of what was raised
            raise KeyboardInterrupt
        sys.exit(status)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.1 has none
            print(error.format_message(), file=sys.stderr)
        else:
            print(f"{name}: {error.format_message().rstrip('.')}; see --help", file=sys.stderr)
        sys.exit(MISTAKE)
    except FedkdError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
    except (KeyboardInterrupt, click.Abort):
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        from fedkd.process.crash_log import report_unexpected

        sys.exit(report_unexpected(name, error))


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version and exit.",
            is_eager=True,
            callback=lambda shown: _show_version() if shown else None,
        ),
    ] = False,
) -> None:
    """Options of the command itself."""


def _show_version() -> None:
    from importlib.metadata import version

    typer.echo(version("fedkd"))
    raise typer.Exit


def _argument_help(function: Callable[..., Any]) -> dict[str, str]:
    """The help of a function's arguments, by name of parameter."""
    hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    return {
        name: found.help
        for name, hint in hints.items()
        for found in getattr(hint, "__metadata__", ())
        if isinstance(found, ArgumentInfo) and found.help
    }
