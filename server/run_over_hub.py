"""A run of ``fedkd-server run``: open the hub, wait for institutions, distil, write the report."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedkd.errors import SettingsError
from fedkd.experiment import Experiment, load_experiment
from fedkd.loop import Watch
from fedkd.process.plural import counted
from fedkd.server.card_expectation import expectation_failure
from fedkd.server.drivers.standalone_driver import distil_over_hub
from fedkd.server.experiment_check import check_experiment
from fedkd.server.hub.admission import Admission, JoinTokens, persistent_run_token
from fedkd.server.hub.hub import MAX_INSTITUTIONS, Hub
from fedkd.server.hub.tls_certificates import server_credentials
from fedkd.server.report.live.background_server import live_page
from fedkd.server.run.checkpoint import FOLDER, Checkpoint
from fedkd.server.run.console import print_result, print_resumed, progress_bars
from fedkd.server.run.earlier_run import grown_from, with_earlier_student
from fedkd.server.run.progress_to_log import ProgressLog
from fedkd.server.run.quorum import Quorum
from fedkd.server.run.resume_hint import complete_interrupted_run, resume_hint
from fedkd.server.run.run_recorder import RunRecorder
from fedkd.server.run.tensorboard_log import check_tensorboard, tensorboard_log
from fedkd.server.start_selection import await_institutions, misfits_at_start
from fedkd.wire.grpc_channels import grpc


@dataclass(frozen=True)
class Endpoint:
    """Where and for whom a coordinator listens, and how it shows progress."""

    address: str
    """host:port."""
    tls: Path | None
    """Folder of certificates; None: plain text, on this machine alone."""
    tokens: Path | None
    """File of join tokens; None: one token of the run, which is printed."""
    institutions: int | None
    """How many are waited for; None: the experiment's number."""
    wait: float
    """Seconds that they may take to connect."""
    metrics: int | None
    """Port for Prometheus; None: no metrics."""
    bars: bool
    """Text and progress bars; False: a log of JSON lines."""
    live: int | None = None
    """Port on which the page of the run is served to this machine; None: not at all."""
    tensorboard: bool = False
    """Whether a log for TensorBoard is written too."""

    def credentials(self) -> grpc.ServerCredentials | None:
        """Read from the folder of certificates; None for plain text."""
        return None if self.tls is None else server_credentials(self.tls)


def begin_run(
    experiment: str,
    overrides: Sequence[str],
    out: Path | None,
    every: float,
    endpoint: Endpoint,
    *,
    record: bool,
    grow: Path | None = None,
) -> None:
    """Begin a new run, and bring it to its end.

    Args:
        experiment: a .toml file, or the name of one that ships.
        overrides: section.key=value.
        out: folder; None: runs/EXPERIMENT-TIME.
        every: seconds between saved states, 0 for none.
        endpoint: where institutions connect.
        record: whether every reply is kept when the run is over.
        grow: folder of a finished run, whose student goes on; None: it begins anew.

    Raises:
        FedkdError: settings, data or institutions do not allow it.
    """
    resolved = with_earlier_student(grown_from(load_experiment(experiment, overrides), grow))
    check_experiment(resolved)
    path = out or Path("runs") / f"{resolved.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    credentials = endpoint.credentials()  # an error here leaves no folder
    if endpoint.tensorboard:
        check_tensorboard()
    with live_page(path, endpoint.live, "fedkd-server"):
        _complete(Checkpoint.begin(path, resolved, "hub", every, record), endpoint, credentials)


def resume_run(path: Path, without: Sequence[str], endpoint: Endpoint) -> None:
    """Resume an interrupted run, and bring it to its end.

    Args:
        path: of its folder.
        without: names of institutions that are left out from here on.
        endpoint: where institutions connect.

    Raises:
        FedkdError: settings, data or institutions do not allow it.
    """
    if (result := complete_interrupted_run(path)) is not None:
        print_result(result, str(path / "report.html"))
        return
    credentials = endpoint.credentials()
    with live_page(path, endpoint.live, "fedkd-server"):
        _complete(Checkpoint.resume(path, "hub", without=without), endpoint, credentials)


def _complete(
    checkpoint: Checkpoint, endpoint: Endpoint, credentials: grpc.ServerCredentials | None
) -> None:
    """Open the hub, and bring a run to its end from where its checkpoint stands."""
    path = checkpoint.folder.path
    quorum = _quorum(checkpoint, endpoint.institutions, endpoint.wait)
    with resume_hint(checkpoint, f"fedkd-server run --resume {path} with the options of before"):
        admission = _admission(endpoint.tokens, path)
        known, bans = checkpoint.known_cards, checkpoint.bans
        expect = checkpoint.manifest.experiment.expect
        with Hub(
            *(admission, endpoint.address, credentials),
            known=known,
            bans=bans,
            max_institutions=max(MAX_INSTITUTIONS, 2 * quorum.expected),
            misfit=lambda card: expectation_failure(expect, card),
        ) as hub:
            if isinstance(admission, str):
                print(f"fedkd-server: the token of this run is {admission}", file=sys.stderr)
            expected = f"{counted(quorum.expected, 'institution')} may dial {hub.address}"
            print(f"fedkd-server: {expected}", file=sys.stderr)
            _distil(checkpoint, hub, quorum, endpoint)


def _quorum(checkpoint: Checkpoint, institutions: int | None, wait: float) -> Quorum:
    """All institutions of a new run; of a resumed one a quorum, and the others for a short time."""
    experiment, bans = checkpoint.manifest.experiment, checkpoint.bans
    known = len(checkpoint.known_cards)
    minimum = experiment.questions.quorum
    # Banned institutions are refused, so they are not waited for.
    count = (institutions or len(experiment.institutions.taking_part)) - len(bans)
    if known and institutions is None:
        count = sum(card.name not in bans for card in checkpoint.known_cards)
    linger = experiment.questions.timeout if known else None
    return Quorum(max(minimum, count), minimum, wait, linger)


def _distil(checkpoint: Checkpoint, hub: Hub, quorum: Quorum, endpoint: Endpoint) -> None:
    """Wait for institutions, distil, write the report."""
    manifest, path = checkpoint.manifest, checkpoint.folder.path
    if manifest.resumed:
        print_resumed(manifest.resumed, checkpoint.questions, manifest.warning)
    experiment = manifest.experiment
    with (
        _serving_metrics(hub, endpoint.metrics),
        _watch(experiment, quorum.expected, bars=endpoint.bars) as (progress, watch),
        tensorboard_log(path, endpoint.tensorboard) as logs,
    ):
        new = not checkpoint.known_cards  # else who takes part is decided
        cards = await_institutions(
            *(hub, quorum, progress),
            misfits=lambda cards: misfits_at_start(experiment, cards) if new else {},
        )
        recorder = RunRecorder(
            path, experiment, "hub", listeners=(watch, *logs), checkpoint=checkpoint
        )
        result = distil_over_hub(experiment, hub, cards, recorder, checkpoint)
    if endpoint.bars:
        print_result(result, str(path / "report.html"))


@contextmanager
def _serving_metrics(hub: Hub, port: int | None) -> Iterator[None]:
    """Serve Prometheus metrics, if a port is given."""
    if port is None:
        yield
        return
    try:
        from fedkd.server.hub.prometheus import serve_metrics
    except ImportError:
        raise SettingsError("metrics need prometheus-client; install fedkd[metrics]") from None
    address, stop = serve_metrics(hub, port)
    print(f"fedkd-server: metrics at http://{address}/metrics", file=sys.stderr)
    try:
        yield
    finally:
        stop()


@contextmanager
def _watch(
    experiment: Experiment, count: int, *, bars: bool
) -> Iterator[tuple[Callable[[int], None], Watch]]:
    """Progress bars on a terminal, log events elsewhere."""
    if bars and sys.stdout.isatty():
        logging.getLogger("fedkd.server").setLevel(logging.WARNING)  # the bars say the rest
        with progress_bars(experiment, "institutions", count) as shown:
            yield shown.ready, shown
    else:
        yield lambda count: None, ProgressLog(10 if bars else 100)


def _admission(tokens: Path | None, path: Path) -> Admission | str:
    """Join tokens from a file, or one token of this run.

    The latter is stored in the run's folder until the run is over, so that a resumed run admits the
    same institutions.
    """
    return persistent_run_token(path / FOLDER / "token") if tokens is None else JoinTokens(tokens)
