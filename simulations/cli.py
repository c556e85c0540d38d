"""The command line ``fedkd``: run, compare, methods, report, audit. Imports slow modules late."""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from fedkd.errors import FedkdError, SettingsError
from fedkd.server.report.live.cli import LivePort, watch
from fedkd.simulations.audit.cli import app as audit

CHECKPOINT = 60.0
"""Default seconds between checkpoints of a run."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="One student, distilled from models that never leave the institutions that trained them.",
)

app.add_typer(audit, name="audit")


@app.command()
def run(
    experiment: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A .toml file, or the name of a shipped experiment."),
    ] = None,
    engine: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="local: one process. simulation: Flower. [local]"),
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="Folder of the run [runs/EXPERIMENT-TIME].")  # noqa: UP045
    ] = None,
    seed: Annotated[Optional[int], typer.Option(help="Overrides the seed of the file.")] = None,  # noqa: UP045
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", help="section.key=value, as often as needed.")  # noqa: UP045
    ] = None,
    record: Annotated[bool, typer.Option(help="Store every reply, for --replay.")] = False,
    replay: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of a recorded run, whose replies replace institutions."),
    ] = None,
    checkpoint: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0, help="Seconds between checkpoints; 0: none. [60]"),
    ] = None,
    resume: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of an interrupted run: resume it with its own settings."),
    ] = None,
    without: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="NAME", help="With --resume: go on without this institution; repeatable."
        ),
    ] = None,
    live: LivePort = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write DIR/tensorboard for TensorBoard too.")
    ] = False,
) -> None:
    """Distil one student and write a run folder with its report."""
    given = (experiment, engine, out, seed, set_, record or None, replay, checkpoint)
    if (resume is None) == (experiment is None) or (resume and any(g is not None for g in given)):
        raise SettingsError(
            "give an experiment, or --resume DIR and nothing else: DIR holds all settings"
        )
    if without and resume is None:
        raise SettingsError("--without NAME leaves an institution out of a run; give --resume DIR")
    typer.echo("fedkd: loading ...", err=True)
    from fedkd.simulations.engines.environment_variables import set_environment_defaults

    set_environment_defaults()
    from fedkd.experiment import load_experiment
    from fedkd.simulations.run import resume as resume_run
    from fedkd.simulations.run import run as run_experiment

    if resume is not None:
        resume_run(resume, without or (), live, tensorboard)
        return
    overrides = [*(set_ or []), *([f"seed={seed}"] if seed is not None else [])]
    run_experiment(
        load_experiment(str(experiment), overrides),
        engine or "local",
        out,
        record=record,
        replay=replay,
        checkpoint=CHECKPOINT if checkpoint is None else checkpoint,
        live=live,
        tensorboard=tensorboard,
    )


@app.command()
def compare(
    experiments: Annotated[list[str], typer.Argument(help="Files or names, as `run` takes them.")],
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ... of each.")] = 3,
    engine: Annotated[str, typer.Option(help="local or simulation.")] = "local",
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the comparison [runs/compare-TIME]."),
    ] = None,
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", help="section.key=value, for every experiment."),
    ] = None,
    methods: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="a,b,c: methods, or experiments whose method is taken; or a .toml file of tables."
        ),
    ] = None,
    sweep: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="section.key=value,value,...: a row each; none leaves the key out, "
            'and "none" is the string.'
        ),
    ] = None,
    columns: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Columns of the tables: student,best,... An unknown one lists all."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at a time, each a process of its own.")
    ] = 1,
) -> None:
    """Run experiments over seeds: a page, tables (mean ± sd), values as CSV, plots.

    The same command with the same --out resumes an interrupted comparison.
    """
    typer.echo("fedkd: loading ...", err=True)
    from fedkd.simulations.engines.environment_variables import set_environment_defaults

    set_environment_defaults()
    from fedkd.simulations.compare.comparison import compare as compare_experiments

    compare_experiments(
        *(experiments, seeds, engine, out, set_ or [], methods, sweep or [], columns, jobs)
    )


app.command()(watch)


@app.command()
def methods() -> None:
    """List every method: its paper, what it asks of institutions, what that discloses."""
    from fedkd.simulations.method_list import print_methods

    print_methods()


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Build the report page of a finished run again."""
    from fedkd.server.report.page import build_report

    typer.echo(str(build_report(folder)))


def main() -> None:
    """Entry point: every error is one line; a `FedkdError` has exit status 2."""
    try:
        app()
    except FedkdError as error:
        print(f"fedkd: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("fedkd: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from fedkd.core.crash_log import report_unexpected

        sys.exit(report_unexpected("fedkd", error))


if __name__ == "__main__":
    main()
