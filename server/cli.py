"""The command line ``fedkd-server``: run, token, certificates. Slow imports are deferred."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import click
import typer

from fedkd.errors import FedkdError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedkd.experiment import Experiment
    from fedkd.loop import Watch
    from fedkd.server.hub.admission import Admission
    from fedkd.server.hub.hub import Hub
    from fedkd.server.run.checkpoint import Checkpoint
    from fedkd.server.run.quorum import Quorum

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
    from fedkd.core.plural import counted
    from fedkd.server.hub.hub import Hub
    from fedkd.server.hub.tls_certificates import server_credentials
    from fedkd.server.run.checkpoint import Checkpoint
    from fedkd.server.run.console import print_result
    from fedkd.server.run.resume_hint import complete_interrupted_run, resume_hint

    configure_logging(log)
    if resume is not None and (result := complete_interrupted_run(resume)) is not None:
        print_result(result, str(resume / "report.html"))
        return
    credentials = server_credentials(tls) if tls else None
    if resume is None:
        overrides = [*(set_ or []), *([f"seed={seed}"] if seed is not None else [])]
        saved_run = _begin(experiment, overrides, out, checkpoint, record)
    else:
        saved_run = Checkpoint.resume(resume, "hub", without=without or ())
    path = saved_run.folder.path
    quorum = _quorum(saved_run, institutions, wait)
    with resume_hint(saved_run, f"fedkd-server run --resume {path} with the options of before"):
        admission = _admission(tokens, path)
        where = address or (TLS_ADDRESS if tls else PLAINTEXT_ADDRESS)
        known, bans = saved_run.known_cards, saved_run.bans
        with Hub(admission, where, credentials, known=known, bans=bans) as hub:
            if isinstance(admission, str):
                typer.echo(f"fedkd-server: the token of this run is {admission}", err=True)
            expected = f"{counted(quorum.expected, 'institution')} may dial {hub.address}"
            typer.echo(f"fedkd-server: {expected}", err=True)
            _distil(saved_run, hub, quorum, metrics, bars=log == "text")


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


def _begin(
    experiment: str, overrides: list[str], out: Path | None, every: float, record: bool
) -> "Checkpoint":
    """Begin a new run, with ``every`` seconds between saved states."""
    from fedkd.experiment import load_experiment
    from fedkd.server.coordinator import check_names
    from fedkd.server.run.checkpoint import Checkpoint

    resolved = load_experiment(experiment, overrides)
    check_names(resolved)
    path = out or Path("runs") / f"{resolved.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Checkpoint.begin(path, resolved, "hub", every, record)


def _quorum(checkpoint: "Checkpoint", institutions: int | None, wait: float) -> "Quorum":
    """All institutions of a new run; of a resumed one a quorum, and the others for a short time."""
    from fedkd.server.run.quorum import Quorum

    experiment, bans = checkpoint.manifest.experiment, checkpoint.bans
    known = len(checkpoint.known_cards)
    minimum = experiment.questions.quorum
    # Banned institutions are refused, so they are not waited for.
    count = (institutions or experiment.institutions.count) - len(bans)
    if known and institutions is None:
        count = sum(card.name not in bans for card in checkpoint.known_cards)
    linger = experiment.questions.timeout if known else None
    return Quorum(max(minimum, count), minimum, wait, linger)


def _distil(
    checkpoint: "Checkpoint",
    hub: "Hub",
    quorum: "Quorum",
    metrics: int | None,
    *,
    bars: bool,
) -> None:
    """Wait for institutions, distil, write the report."""
    from fedkd.server.drivers.standalone_driver import await_institutions, distil_over_hub
    from fedkd.server.run.console import print_result, print_resumed
    from fedkd.server.run.run_recorder import RunRecorder

    manifest, path = checkpoint.manifest, checkpoint.folder.path
    if manifest.resumed:
        print_resumed(manifest.resumed, checkpoint.questions, manifest.warning)
    experiment = manifest.experiment
    with (
        _serving_metrics(hub, metrics),
        _watch(experiment, quorum.expected, bars=bars) as (progress, watch),
    ):
        cards = await_institutions(hub, quorum, progress)
        recorder = RunRecorder(path, experiment, "hub", listeners=(watch,), checkpoint=checkpoint)
        result = distil_over_hub(experiment, hub, cards, recorder, checkpoint)
    if bars:
        print_result(result, str(path / "report.html"))


@contextmanager
def _serving_metrics(hub: "Hub", port: int | None) -> "Iterator[None]":
    """Serve Prometheus metrics, if a port is given."""
    if port is None:
        yield
        return
    try:
        from fedkd.server.hub.prometheus import serve_metrics
    except ImportError:
        raise SettingsError("metrics need prometheus-client; install fedkd[metrics]") from None
    address, stop = serve_metrics(hub, port)
    typer.echo(f"fedkd-server: metrics at http://{address}/metrics", err=True)
    try:
        yield
    finally:
        stop()


@contextmanager
def _watch(
    experiment: "Experiment", count: int, *, bars: bool
) -> "Iterator[tuple[Callable[[int], None], Watch]]":
    """Progress bars on a terminal, log events elsewhere."""
    from fedkd.server.run.console import progress_bars
    from fedkd.server.run.progress_to_log import ProgressLog

    if bars and sys.stdout.isatty():
        logging.getLogger("fedkd.server").setLevel(logging.WARNING)  # the bars say the rest
        with progress_bars(experiment, "institutions", count) as shown:
            yield shown.ready, shown
    else:
        yield lambda count: None, ProgressLog(10 if bars else 100)


def _admission(tokens: Path | None, path: Path) -> "Admission | str":
    """Join tokens from a file, or one token of this run.

    The latter is stored in the run's folder until the run is over, so that a resumed run admits the
    same institutions.
    """
    from fedkd.server.hub.admission import JoinTokens, persistent_run_token
    from fedkd.server.run.checkpoint import FOLDER

    return persistent_run_token(path / FOLDER / "token") if tokens is None else JoinTokens(tokens)


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
