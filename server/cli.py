"""The command line ``fedkd-server``: run, strike, token, certificates; slow imports deferred."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Optional

import click
import typer

from fedkd.errors import FedkdError, SettingsError
from fedkd.server.report.live.cli import LivePort, watch

PLAINTEXT_ADDRESS = "127.0.0.1:0"
"""Default address for plain text."""
TLS_ADDRESS = "0.0.0.0:9092"
"""Default address for TLS."""

INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    suggest_commands=False,  # click does already
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The coordinator: institutions dial in, it asks, one student learns.",
)


@app.command()
def run(
    experiment: Annotated[
        str, typer.Argument(help="A .toml file, or the name of one that ships.")
    ] = "",
    address: Annotated[
        str,
        typer.Option(
            help=f"Listen here [{TLS_ADDRESS} with --tls, {PLAINTEXT_ADDRESS} with --insecure]."
        ),
    ] = "",
    tls: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with ca.pem, server.pem, server.key; institutions show theirs."),
    ] = None,
    insecure: Annotated[bool, typer.Option(help="Plain text, on this machine alone.")] = False,
    tokens: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File of join tokens; without it one token of the run is printed."),
    ] = None,
    institutions: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="How many to wait for [the experiment's number]."),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds that they may take to come; then a quorum does.")
    ] = 3600,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the run [runs/EXPERIMENT-TIME]."),
    ] = None,
    seed: Annotated[Optional[int], typer.Option(help="In the place of the file's.")] = None,  # noqa: UP045
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="section.key=value, as often as needed."),
    ] = None,
    checkpoint: Annotated[
        float, typer.Option(min=0, help="Seconds between states to go on from; 0: none.")
    ] = 60.0,
    resume: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of a run that was cut short: go on with it."),
    ] = None,
    without: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="NAME", help="With --resume: go on without this institution; repeatable."
        ),
    ] = None,
    record: Annotated[bool, typer.Option(help="Keep every reply when the run is over.")] = False,
    metrics: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=0, help="Port on this machine, for Prometheus to read."),
    ] = None,
    log: Annotated[str, typer.Option(help="text or json, one event a line.")] = "text",
    live: LivePort = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write DIR/tensorboard for TensorBoard too.")
    ] = False,
) -> None:
    """Wait for institutions, distil one student, leave a folder with its report."""
    if (tls is None) != insecure:
        raise SettingsError(
            "give either --tls DIR, or --insecure for plain text on this machine alone"
        )
    if log == "json" and tokens is None:
        raise SettingsError("a log that is kept must not hold a token; give --tokens FILE")
    if bool(experiment) == (resume is not None):
        raise SettingsError("give an experiment, or --resume DIR, which knows its own")
    if resume is not None and (out is not None or seed is not None or set_ or record):
        raise SettingsError("--resume goes on with the run as it was begun; leave the rest out")
    if without and resume is None:
        raise SettingsError("--without NAME leaves an institution out of a run; give --resume DIR")
    _silence_grpc()
    from fedkd.core.logs import configure_logging
    from fedkd.server.run_over_hub import Endpoint, begin_run, resume_run

    configure_logging(log)
    where = address or (TLS_ADDRESS if tls else PLAINTEXT_ADDRESS)
    endpoint = Endpoint(
        *(where, tls, tokens, institutions, wait, metrics),
        bars=log == "text",
        live=live,
        tensorboard=tensorboard,
    )
    if resume is None:
        overrides = [*(set_ or []), *([f"seed={seed}"] if seed is not None else [])]
        begin_run(experiment, overrides, out, checkpoint, endpoint, record=record)
    else:
        resume_run(resume, without or (), endpoint)


app.command()(watch)


@app.command()
def strike(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run that goes on.")],
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As on their cards.")],
    why: Annotated[str, typer.Option(help="The reason, for the record and for them.")] = "",
) -> None:
    """Exclude institutions from a run that goes on: their answers are fused out of all targets."""
    from fedkd.server.run.exclusion_request import await_exclusion, request_exclusion

    request_exclusion(folder, names, why)
    for name, asked in await_exclusion(folder, names).items():
        typer.echo(
            f"{name} will be excluded before the next question"
            if asked is None
            else f"{name} is excluded after {asked:,} samples; its answers are fused out"
        )


@app.command()
def token(
    names: Annotated[list[str], typer.Argument(help="Institutions, as on their cards.")],
    tokens: Annotated[Path, typer.Option(help="File that `run --tokens` reads.")],
    hours: Annotated[float, typer.Option(min=0, help="For which it may be used first.")] = 168,
) -> None:
    """Issue one-time join tokens: each is shown once, and only its digest is kept."""
    _silence_grpc()
    from fedkd.server.hub.admission import JoinTokens

    issuing = JoinTokens(tokens)
    for name in names:
        typer.echo(f"{name} {issuing.issue(name, hours)}")


@app.command()
def certificates(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made if it is not there.")],
    institution: Annotated[
        list[str], typer.Option(metavar="NAME", help="As on its card; as often as needed.")
    ],
    host: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="By which institutions reach the coordinator, besides localhost."),
    ] = None,
    days: Annotated[int, typer.Option(help="For which they hold.")] = 30,
    flower: Annotated[bool, typer.Option(help="Also keys of Flower's SuperNodes.")] = False,
) -> None:
    """Make certificates for development; nothing that is there is overwritten."""
    _silence_grpc()
    from fedkd.server.hub.tls_certificates import make_certificates

    for path in make_certificates(folder, institution, host or [], days=days, flower=flower):
        typer.echo(str(path))
    typer.echo(
        f"For development: they hold {days} days, and ca.key makes anybody. In production your own "
        "authority signs, each institution makes its key where it is used and sends only a "
        "request, and no key is ever copied (docs/deployment.md).",
        err=True,
    )


def _silence_grpc() -> None:
    # gRPC's core would print what our own errors say in one line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM ends a run as Ctrl-C does: institutions are told that it is over."""
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: every error is one line; fedkd's own and of usage are status 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = app(standalone_mode=False)
        if status == INTERRUPTED:  # typer makes a status of what was raised
            raise KeyboardInterrupt
        sys.exit(status)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(2)
    except click.ClickException as error:
        print(f"fedkd-server: {error.format_message().rstrip('.')}; see --help", file=sys.stderr)
        sys.exit(2)
    except FedkdError as error:
        print(f"fedkd-server: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        print("fedkd-server: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        from fedkd.core.crash_log import report_unexpected

        sys.exit(report_unexpected("fedkd-server", error))


if __name__ == "__main__":
    main()
