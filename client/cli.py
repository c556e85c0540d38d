"""Command line of an institution, ``fedkd-client``. Slow modules are imported when needed."""

import collections
import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkd.errors import SettingsError
from fedkd.process import command_line
from fedkd.process.command_line import App

if TYPE_CHECKING:
    from fedkd.client.config.owner_config import OwnerConfig
    from fedkd.client.ledger.ledger import Ledger

STATUS = {"over": 0, "left": 0, "refused": 3, "gone": 4}
"""Exit status of ``serve`` by its stop reason. A mistake of the owner is 2, as everywhere."""

app = App(
    help="An institution: answers what its owner's policy allows, and nothing else.", version=True
)
ledger = App(help="What was asked and charged, in the owner's ledger.")
app.add_typer(ledger, name="ledger")

File = Annotated[Path, typer.Argument(help="The owner's TOML file; see `init`.")]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


@app.command()
def init(
    owner: Annotated[Path, typer.Argument(help="The file to write.")] = Path("owner.toml"),
) -> None:
    """Write a commented OWNER.toml to start from."""
    from fedkd.client.config.template import TEMPLATE

    try:
        with owner.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except OSError as error:
        raise SettingsError(
            f"cannot write {owner}: {error.strerror}; name a file that is not there yet"
        ) from error
    typer.echo(f"{owner}: now say in it what you have, what may be asked, and whom to dial")


@app.command()
def teach(owner: File) -> None:
    """Train the teacher, or load it, and cache it."""
    from fedkd.client.config.owner_config import load_owner_config
    from fedkd.client.config.private_state_folder import locked
    from fedkd.client.institution import owner_institution
    from fedkd.client.monitoring.terminal_formatting import progress_bar
    from fedkd.process.plural import counted

    settings = load_owner_config(owner)
    with locked(settings.state.folder), progress_bar("teacher") as progress:
        card = owner_institution(settings, progress).card
    shape = "x".join(str(side) for side in card.shape)
    outputs = counted(card.classes, "number") if card.numbers else f"{card.classes} classes"
    of = f"rows of {counted(len(card.columns), 'column')}" if card.columns else f"images of {shape}"
    typer.echo(f"{card.name}: a teacher of {outputs} for {of} is ready")


@app.command()
def shrink(
    owner: File,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Also score plain distillation on the same images, and discard it."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the teacher narrower with a few of its own images, as [teacher.shrunk] says.

    From then on the narrower network answers, under the same policy and ledger. The scores on the
    private test data are for the owner alone.
    """
    from fedkd.client.config.owner_config import load_owner_config
    from fedkd.client.config.private_state_folder import locked
    from fedkd.client.institution.teacher_shrinking import shrink_teacher
    from fedkd.client.monitoring.terminal_formatting import format_tested_network, progress_bar

    settings = load_owner_config(owner)
    with locked(settings.state.folder), progress_bar("teacher") as progress:
        made = shrink_teacher(settings, progress, compare=compare)
    if as_json:
        typer.echo(json.dumps(asdict(made)))
        return
    networks = {
        "teacher": made.teacher,
        "shrunk": made.shrunk,
        "plain distillation": made.distilled,
        "plain distillation, mixed": made.distilled_mixed,
    }
    for what, network in networks.items():
        if network is not None:
            counts = (network.weights, network.right, network.examples)
            typer.echo(f"{made.name}, {what}: {format_tested_network(*counts)}")


@app.command()
def serve(
    owner: File,
    server: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the coordinator, instead of the file's."),
    ] = None,
    log: Annotated[str, typer.Option(help="text or json, one event a line.")] = "text",
    metrics: Annotated[
        str | None,
        typer.Option(help="PORT on this machine, or HOST:PORT, for Prometheus."),
    ] = None,
    stay: Annotated[bool, typer.Option(help="Dial again when a run is over.")] = False,
) -> None:
    """Dial the coordinator, serve Flower's control socket, and answer until told to stop.

    Exit status: 0 the run is over or a signal came, 2 a mistake in the file, 3 refused for good,
    4 the coordinator is gone.
    """
    # gRPC's core would write to the terminal what the log says in one line. It reads this variable
    # when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from fedkd.client.config.owner_config import load_owner_config
    from fedkd.client.daemon import serve as answer

    raise typer.Exit(STATUS[answer(load_owner_config(owner), server, log, metrics, stay)])


@app.command()
def card(owner: File, as_json: AsJson = False) -> None:
    """All that is disclosed before the first query."""
    from fedkd.client.config.owner_config import load_owner_config
    from fedkd.client.institution import owner_institution
    from fedkd.client.monitoring.terminal_formatting import card_fields, format_card, progress_bar

    with progress_bar("teacher") as progress:
        shown = owner_institution(load_owner_config(owner), progress).card
    typer.echo(json.dumps(card_fields(shown)) if as_json else format_card(shown))


@app.command()
def score(
    owner: File,
    student: Annotated[Path, typer.Argument(help="student.safetensors or student.onnx of a run.")],
    batch_statistics: Annotated[
        bool,
        typer.Option(
            "--batch-statistics", help="Its batch norm gets the statistics of the test data first."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a student on the private test data, for the owner alone."""
    from fedkd.client.config.owner_config import load_owner_config
    from fedkd.client.institution import evaluate_student
    from fedkd.client.monitoring.terminal_formatting import format_number_scores

    found = evaluate_student(load_owner_config(owner), student, batch_statistics)
    if not isinstance(found, tuple):
        typer.echo(json.dumps(found) if as_json else format_number_scores(found))
        return
    correct, examples = found
    if as_json:
        typer.echo(json.dumps({"right": correct, "of": examples, "accuracy": correct / examples}))
    else:
        typer.echo(f"{correct} of {examples} right: {correct / examples:.2%}")


@app.command()
def audit(
    owner: File,
    members: Annotated[
        str | None,
        typer.Option(
            help="SOURCE of training samples, as in [data], such as table:FILE.csv. [those of the "
            "[data] table]"
        ),
    ] = None,
    others: Annotated[
        str | None,
        typer.Option(
            help="SOURCE of samples that the teacher was not trained on. [test samples of the "
            "[data] table]"
        ),
    ] = None,
    student: Annotated[
        Path | None,
        typer.Option(help="Attack this student of a run instead of the teacher."),
    ] = None,
    samples: Annotated[int, typer.Option(min=10, help="Most samples of each kind.")] = 1000,
    all_signals: Annotated[
        bool,
        typer.Option(
            "--all-signals", help="Also what the policy withholds: every signal, and pull-back."
        ),
    ] = False,
    scores: Annotated[
        Path | None,
        typer.Option(help="New .npz or .csv for the scores of every sample, for other tools."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of samples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """How well members of the training set are found by what the policy releases; charges nothing.

    To be run before signing, by the owner and for the owner alone.
    """
    from fedkd.client.config.owner_config import load_owner_config
    from fedkd.client.institution.membership_audit import (
        AuditedSamples,
        audit_release,
        audit_student,
    )
    from fedkd.client.monitoring.membership_text import (
        format_membership_audit,
        membership_audit_fields,
    )
    from fedkd.client.monitoring.terminal_formatting import progress_bar
    from fedkd.privacy.score_export import check_export, export_scores

    check_export(scores)
    config, chosen = load_owner_config(owner), AuditedSamples(members, others, samples, seed)
    if student is not None:
        found = audit_student(config, student, chosen)
    else:
        with progress_bar("teacher") as progress:
            found = audit_release(config, chosen, all_signals=all_signals, progress=progress)
    if scores is not None:
        export_scores(scores, found.columns)
    fields = membership_audit_fields
    typer.echo(json.dumps(fields(found)) if as_json else format_membership_audit(found))


@ledger.command()
def show(
    owner: File,
    last: Annotated[int, typer.Option(min=0, help="Rows to show, the latest.")] = 10,
    as_json: AsJson = False,
) -> None:
    """What is spent, and the latest entries."""
    from fedkd.client.monitoring.terminal_formatting import (
        format_entries,
        format_spending,
        format_totals,
    )

    settings, opened = _open_ledger(owner)
    with contextlib.closing(opened):
        latest = collections.deque(opened.entries(), max(1, last))
        rows = [*latest][:last]
        if as_json:
            each = {
                name: asdict(known)
                for name, known in opened.dataset_accounts.all_spending().items()
            }
            spent = {"spent": asdict(opened.totals), "data_sets": each}
            typer.echo(json.dumps({**spent, "rows": [*map(asdict, rows)]}))
            return
        so_far, cap = opened.totals, settings.policy.samples
        typer.echo(format_totals(so_far.samples, cap, so_far.refused, so_far.examined))
        for name, known in opened.dataset_accounts.all_spending().items():
            if line := format_spending(name, known, settings.effective_policy.budget):
                typer.echo(line)
    if latest:
        typer.echo(format_entries([*map(asdict, rows)], latest[-1].sequence))


@ledger.command()
def verify(
    owner: File,
    noted: Annotated[
        str | None,
        typer.Option(help="NUMBER:HASH, as an earlier `verify` printed it and you wrote it down."),
    ] = None,
) -> None:
    """Verify the hash chain of the entries, and print its head."""
    from fedkd.client.ledger.hash_chain import Head

    number, _, digest = (noted or "0:").partition(":")
    if noted is not None and not (number.isdecimal() and digest):
        raise SettingsError(f"--noted {noted}: expected NUMBER:HASH")
    _, opened = _open_ledger(owner)
    with contextlib.closing(opened):
        head = opened.verify(Head(int(number), digest) if noted else None)
    typer.echo(f"{head.sequence} rows are verified; write this down elsewhere:")
    typer.echo(f"{head.sequence}:{head.hash}")


@ledger.command()
def export(
    owner: File, out: Annotated[Path, typer.Argument(help="A file that is not there yet.")]
) -> None:
    """Write every entry as a line of JSON."""
    _, opened = _open_ledger(owner)
    with contextlib.closing(opened):
        typer.echo(f"{out}: {opened.export(out)} rows")


@ledger.command()
def backup(
    owner: File, dest: Annotated[Path, typer.Argument(help="A file that is not there yet.")]
) -> None:
    """Copy the ledger into one verified file, also while it is in use, and print its head."""
    _, opened = _open_ledger(owner)
    with contextlib.closing(opened):
        head = opened.backup(dest)
    typer.echo(f"{dest}: {head.sequence} rows are copied and verified; write this down elsewhere:")
    typer.echo(f"{head.sequence}:{head.hash}")


@ledger.command()
def reset(owner: File) -> None:
    """Go on where charges were lost, with the ledger that is there or a new one; recorded in it."""
    from fedkd.client.config.owner_config import load_owner_config
    from fedkd.client.config.private_state_folder import locked
    from fedkd.client.ledger.reset_after_loss import reset_ledger

    settings = load_owner_config(owner)
    with locked(settings.state.folder):
        fault, rows = reset_ledger(settings.state.ledger)
    typer.echo(f"{settings.state.ledger}: {fault}; this is row {rows} now, and is not counted")


def _open_ledger(path: Path) -> "tuple[OwnerConfig, Ledger]":
    """The owner's configuration and his ledger, where there is one."""
    from fedkd.client.config.owner_config import load_owner_config
    from fedkd.client.ledger.ledger import Ledger
    from fedkd.client.ledger.rollback_detection import anchor_of

    settings = load_owner_config(path)
    file = settings.state.ledger
    if not file.is_file() and anchor_of(file).noted() is None:
        raise SettingsError(f"nothing was asked yet: there is no {file}")
    return settings, Ledger.anchored(file)


def main() -> None:
    """Entry point: an error is printed in one line, with exit status 2."""
    command_line.main(app, "fedkd-client")


if __name__ == "__main__":
    main()
