"""The command line ``fedkd-server``: run, strike, token, certificates; slow imports deferred."""

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from fedkd.errors import SettingsError
from fedkd.process import command_line
from fedkd.process.command_line import App
from fedkd.server.report.live.cli import LivePort, TensorBoard, watch

PLAINTEXT_ADDRESS = "127.0.0.1:0"
"""Default address for plain text."""
TLS_ADDRESS = "0.0.0.0:9092"
"""Default address for TLS."""

app = App(help="The coordinator: institutions dial in, it asks, one student learns.", version=True)


ExperimentName = Annotated[
    str | None, typer.Argument(help="A .toml file, or the name of one that ships.")
]
Address = Annotated[
    str | None,
    typer.Option(
        help=f"Listen here [{TLS_ADDRESS} with --tls, {PLAINTEXT_ADDRESS} with --insecure]."
    ),
]
Tls = Annotated[
    Path | None,
    typer.Option(help="Folder with ca.pem, server.pem, server.key; institutions show theirs."),
]
Tokens = Annotated[
    Path | None,
    typer.Option(help="File of join tokens; without it one token of the run is printed."),
]
Institutions = Annotated[
    int | None, typer.Option(min=1, help="How many to wait for [the experiment's number].")
]
Wait = Annotated[
    float, typer.Option(min=0, help="Seconds that they may take to come; then a quorum does.")
]
Out = Annotated[Path | None, typer.Option(help="Folder of the run [runs/EXPERIMENT-TIME].")]
Seed = Annotated[int | None, typer.Option(help="In the place of the file's.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, as often as needed.")
]
CheckpointSeconds = Annotated[
    float, typer.Option(min=0, help="Seconds between states to go on from; 0: none.")
]
Resume = Annotated[
    Path | None, typer.Option(help="Folder of a run that was cut short: go on with it.")
]
Grow = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Folder of a finished run, whose student learns new classes."),
]
Without = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="With --resume: go on without this institution; repeatable."),
]
Metrics = Annotated[
    int | None, typer.Option(min=0, help="Port on this machine, for Prometheus to read.")
]
Log = Annotated[str, typer.Option(help="text or json, one event a line.")]


@app.command()
def run(
    experiment: ExperimentName = None,
    address: Address = None,
    tls: Tls = None,
    insecure: Annotated[bool, typer.Option(help="Plain text, on this machine alone.")] = False,
    tokens: Tokens = None,
    institutions: Institutions = None,
    wait: Wait = 3600,
    out: Out = None,
    seed: Seed = None,
    set_: Overrides = None,
    checkpoint: CheckpointSeconds = 60.0,
    grow: Grow = None,
    resume: Resume = None,
    without: Without = None,
    record: Annotated[bool, typer.Option(help="Keep every reply when the run is over.")] = False,
    metrics: Metrics = None,
    log: Log = "text",
    live: LivePort = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Wait for institutions, distil one student, leave a folder with its report."""
    if (tls is None) != insecure:
        raise SettingsError(
            "give either --tls DIR, or --insecure for plain text on this machine alone"
        )
    if log == "json" and tokens is None:
        raise SettingsError("a log that is kept must not hold a token; give --tokens FILE")
    new = out is not None or seed is not None or bool(set_) or record or grow is not None
    _check_new_or_resumed(experiment, resume, without, new=new)
    where = address or (TLS_ADDRESS if tls else PLAINTEXT_ADDRESS)
    _silence_grpc()
    from fedkd.process.logs import configure_logging
    from fedkd.server.run_over_hub import Endpoint, begin_run, resume_run

    configure_logging(log)
    bars = log == "text"
    endpoint = Endpoint(
        *(where, tls, tokens, institutions, wait, metrics),
        bars=bars,
        live=live,
        tensorboard=tensorboard,
    )
    if resume is not None:
        resume_run(resume, without or (), endpoint)
        return
    overrides = [*(set_ or []), *([f"seed={seed}"] if seed is not None else [])]
    begin_run(experiment or "", overrides, out, checkpoint, endpoint, record=record, grow=grow)


def _check_new_or_resumed(
    experiment: str | None, resume: Path | None, without: list[str] | None, *, new: bool
) -> None:
    """Check that a run is either begun or resumed.

    Args:
        experiment: of a new run.
        resume: folder of another.
        without: institutions to leave out of a resumed run.
        new: whether there is an option of a new run.

    Raises:
        SettingsError: it is neither, or options of both are given.
    """
    if bool(experiment) == (resume is not None):
        raise SettingsError("give an experiment, or --resume DIR, which knows its own")
    if resume is not None and new:
        raise SettingsError("--resume goes on with the run as it was begun; leave the rest out")
    if without and resume is None:
        raise SettingsError("--without NAME leaves an institution out of a run; give --resume DIR")


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
        list[str] | None,
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
    command_line.main(app, "fedkd-server")


if __name__ == "__main__":
    main()
