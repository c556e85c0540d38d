"""The command ``fedkd-client``. Knows the words that people type; every slow import waits."""

import collections
import contextlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import click
import typer

from fedkd.errors import FedkdError, SettingsError

if TYPE_CHECKING:
    from fedkd.client.ledger.ledger import Ledger
    from fedkd.client.config.owner_config import OwnerConfig

STATUS = {"over": 0, "left": 0, "refused": 3, "gone": 4}
"""Exit status of ``serve`` by how it ended. A mistake of the owner's is 2, as everywhere."""

app = typer.Typer(
    add_completion=False,
    suggest_commands=False,  # click does already
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An institution's side: answers what its owner allows, and nothing else.",
)
ledger = typer.Typer(no_args_is_help=True, help="What was asked and charged, in the owner's books.")
app.add_typer(ledger, name="ledger")

File = Annotated[Path, typer.Argument(help="The owner's TOML file; see `init`.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


@app.command()
def init(
    owner: Annotated[Path, typer.Argument(help="The file to write.")] = Path("owner.toml"),
) -> None:
    """Write a commented OWNER.toml to start from."""
    from fedkd.client.config.template import EXAMPLE

    try:
        with owner.open("x", encoding="utf-8") as file:
            file.write(EXAMPLE)
    except OSError as error:
        raise SettingsError(
            f"cannot write {owner}: {error.strerror}; name a file that is not there yet"
        ) from error
    typer.echo(f"{owner}: now say in it what you have, what may be asked, and whom to dial")


@app.command()
def teach(owner: File) -> None:
    """Train or load the teacher, and keep it."""
    from fedkd.client.institution import owned
    from fedkd.client.monitoring.console import bar
    from fedkd.client.config.owner_config import load
    from fedkd.client.config.state_folder import kept

    settings = load(owner)
    with kept(settings.state.folder), bar("teacher") as watch:
        card = owned(settings, watch).card
    shape = "x".join(str(side) for side in card.shape)
    typer.echo(f"{card.name}: a teacher of {card.classes} classes for images of {shape} is ready")


@app.command()
def serve(
    owner: File,
    server: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="HOST:PORT of the coordinator, in the place of the file's."),
    ] = None,
    log: Annotated[str, typer.Option(help="text or json, one event a line.")] = "text",
    metrics: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="PORT on this machine, or HOST:PORT, for Prometheus to read."),
    ] = None,
    stay: Annotated[bool, typer.Option(help="Dial again when a run is over.")] = False,
) -> None:
    """Dial the coordinator, hear Flower's bell, and answer until told to stop.

    Exit status: 0 the run is over or a signal came, 2 a mistake in the file, 3 refused for good,
    4 the coordinator is gone.
    """
    # gRPC's core writes to the terminal what our own events say in one line; it reads this as it is
    # imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from fedkd.client.daemon import serve as answer
    from fedkd.client.config.owner_config import load

    raise typer.Exit(STATUS[answer(load(owner), server, log, metrics, stay)])


@app.command()
def card(owner: File, as_json: AsJson = False) -> None:
    """All that the world is told before the first question. Nothing else is."""
    from fedkd.client.institution import owned
    from fedkd.client.monitoring.console import bar, format_card, told
    from fedkd.client.config.owner_config import load

    with bar("teacher") as watch:
        shown = owned(load(owner), watch).card
    typer.echo(json.dumps(told(shown)) if as_json else format_card(shown))


@app.command()
def score(
    owner: File,
    student: Annotated[Path, typer.Argument(help="student.safetensors of a run.")],
    as_json: AsJson = False,
) -> None:
    """How well a student does on the private test images. Told to nobody."""
    from fedkd.client.institution import examined
    from fedkd.client.config.owner_config import load
    from fedkd.client.institution.submitted_student import opened

    right, examples = examined(load(owner), opened(student))
    if as_json:
        typer.echo(json.dumps({"right": right, "of": examples, "accuracy": right / examples}))
    else:
        typer.echo(f"{right} of {examples} right: {right / examples:.2%}")


@ledger.command()
def show(
    owner: File,
    last: Annotated[int, typer.Option(min=0, help="Rows to show, the latest.")] = 10,
    as_json: AsJson = False,
) -> None:
    """What is spent, and the latest questions."""
    from fedkd.client.monitoring.console import charged, row, spent

    settings, books = _books(owner)
    with contextlib.closing(books):
        rows = collections.deque(books.entries(), last)
        if as_json:
            each = {name: asdict(told) for name, told in books.dataset_accounts.all_spending().items()}
            told = {"spent": asdict(books.totals), "data_sets": each}
            typer.echo(json.dumps({**told, "rows": [*map(asdict, rows)]}))
            return
        so_far, cap = books.totals, settings.policy.samples
        typer.echo(spent(so_far.samples, cap, so_far.refused, so_far.examined))
        for name, known in books.dataset_accounts.all_spending().items():
            if line := charged(name, known, settings.word.budget):
                typer.echo(line)
    for entry in rows:
        typer.echo(row(asdict(entry)))


@ledger.command()
def verify(
    owner: File,
    noted: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="NUMBER:HASH, as an earlier `verify` printed it and you wrote it down."),
    ] = None,
) -> None:
    """Recompute the chain of the rows, and say where it ends."""
    from fedkd.client.ledger.hash_chain import Head

    number, _, digest = (noted or "0:").partition(":")
    if noted is not None and not (number.isdecimal() and digest):
        raise SettingsError(f"--noted {noted}: expected NUMBER:HASH")
    _, books = _books(owner)
    with contextlib.closing(books):
        head = books.verify(Head(int(number), digest) if noted else None)
    typer.echo(f"{head.sequence} rows are verified; write this down elsewhere:")
    typer.echo(f"{head.sequence}:{head.hash}")


@ledger.command()
def export(
    owner: File, out: Annotated[Path, typer.Argument(help="A file that is not there yet.")]
) -> None:
    """Write every row as a line of JSON."""
    _, books = _books(owner)
    with contextlib.closing(books):
        typer.echo(f"{out}: {books.export(out)} rows")


def _books(path: Path) -> "tuple[OwnerConfig, Ledger]":
    """The owner's settings and his books, where there are any."""
    from fedkd.client.ledger.ledger import Ledger
    from fedkd.client.config.owner_config import load

    settings = load(path)
    if not settings.state.ledger.is_file():
        raise SettingsError(f"nothing was asked yet: there is no {settings.state.ledger}")
    return settings, Ledger(settings.state.ledger)


def main() -> None:
    """Entry point: an error of ours, or of who types, is one line and exit status 2."""
    try:
        sys.exit(app(standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(2)
    except click.ClickException as error:
        print(f"fedkd-client: {error.format_message()}; see --help", file=sys.stderr)
        sys.exit(2)
    except FedkdError as error:
        print(f"fedkd-client: {error}", file=sys.stderr)
        sys.exit(2)
    except click.Abort:
        print("fedkd-client: interrupted", file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("fedkd-client: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
