"""The command line ``fedkd``, from ``run`` to ``audit``. Imports slow modules late."""

from pathlib import Path
from typing import Annotated

import typer

from fedkd.errors import SettingsError
from fedkd.process import command_line
from fedkd.process.command_line import App
from fedkd.server.report.live.cli import LivePort, TensorBoard, watch
from fedkd.simulations.audit.cli import app as audit

CHECKPOINT = 60.0
"""Default seconds between checkpoints of a run."""

app = App(
    help="One student, distilled from models that never leave the institutions that trained them.",
    version=True,
)

app.add_typer(audit, name="audit")


ExperimentName = Annotated[
    str | None, typer.Argument(help="A .toml file, or the name of a shipped experiment.")
]
Engine = Annotated[str | None, typer.Option(help="local: one process. simulation: Flower. [local]")]
Out = Annotated[Path | None, typer.Option(help="Folder of the run [runs/EXPERIMENT-TIME].")]
Seed = Annotated[int | None, typer.Option(help="Overrides the seed of the file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, as often as needed.")
]
ReplayFolder = Annotated[
    Path | None,
    typer.Option(help="Folder of a recorded run, whose replies replace institutions."),
]
CheckpointSeconds = Annotated[
    float | None, typer.Option(min=0, help="Seconds between checkpoints; 0: none. [60]")
]
Resume = Annotated[
    Path | None,
    typer.Option(help="Folder of an interrupted run: resume it with its own settings."),
]
Grow = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Folder of a finished run, whose student learns new classes."),
]
Without = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="With --resume: go on without this institution; repeatable."),
]


@app.command()
def run(
    experiment: ExperimentName = None,
    engine: Engine = None,
    out: Out = None,
    seed: Seed = None,
    set_: Overrides = None,
    record: Annotated[bool, typer.Option(help="Store every reply, for --replay.")] = False,
    replay: ReplayFolder = None,
    checkpoint: CheckpointSeconds = None,
    grow: Grow = None,
    resume: Resume = None,
    without: Without = None,
    live: LivePort = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Distil one student and write a run folder with its report."""
    given = (experiment, engine, out, seed, set_, record or None, replay, checkpoint, grow)
    if (resume is None) == (experiment is None) or (resume and any(g is not None for g in given)):
        raise SettingsError(
            "give an experiment, or --resume DIR and nothing else: DIR holds all settings"
        )
    if without and resume is None:
        raise SettingsError("--without NAME leaves an institution out of a run; give --resume DIR")
    _announce()
    from fedkd.experiment import load_experiment
    from fedkd.server.run.earlier_run import grown_from
    from fedkd.simulations.run import resume as resume_run
    from fedkd.simulations.run import run as run_experiment

    if resume is not None:
        resume_run(resume, without or (), live, tensorboard)
        return
    overrides = [*(set_ or []), *([f"seed={seed}"] if seed is not None else [])]
    run_experiment(
        grown_from(load_experiment(str(experiment), overrides), grow),
        engine or "local",
        out,
        record=record,
        replay=replay,
        checkpoint=CHECKPOINT if checkpoint is None else checkpoint,
        live=live,
        tensorboard=tensorboard,
    )


def _announce() -> None:
    """Say that a moment passes: torch and Flower take seconds to import."""
    typer.echo("fedkd: loading ...", err=True)
    from fedkd.simulations.engines.environment_variables import set_environment_defaults

    set_environment_defaults()


@app.command()
def compare(
    experiments: Annotated[list[str], typer.Argument(help="Files or names, as `run` takes them.")],
    seeds: Annotated[int, typer.Option(help="Seeds 0, 1, ... of each.")] = 3,
    draws: Annotated[
        int | None,
        typer.Option(
            help="In place of --seeds: so many draws, each with another partition, teachers and "
            "student; tables have standard errors."
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="local or simulation.")] = "local",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the comparison [runs/compare-TIME]."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, for every experiment."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="a,b,c: methods, or experiments whose method is taken; or a .toml file of tables."
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="section.key=value,value,...: a row each; none leaves the key out, "
            'and "none" is the string.'
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns of the tables: student,best,... An unknown one lists all."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at a time, each a process of its own.")
    ] = 1,
) -> None:
    """Run experiments over seeds: a page, tables (mean ± sd), values as CSV, plots.

    The same command with the same --out resumes an interrupted comparison.
    """
    _announce()
    from fedkd.simulations.compare.comparison import compare as compare_experiments

    compare_experiments(
        *(experiments, seeds if draws is None else draws, engine, out, set_ or [], methods),
        *(sweep or [], columns, jobs, draws is not None),
    )


@app.command()
def reproduce(
    method: Annotated[
        str, typer.Argument(help="A regime, named after its method, or a .toml file of one.")
    ],
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run [runs/reproduce-METHOD-SEED]; it resumes there."),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the figures to this file.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the data.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value of the regime: share=0.1, device=cuda, ..."),
    ] = None,
) -> None:
    """Train one student as a method's paper does: its data, batch, steps; compare the figures.

    One teacher, in this process, fresh images where the paper has them; no policy, no network.
    The same command with the same --out resumes an interrupted run.
    """
    _announce()
    from fedkd.simulations.reproduction.reproduction import lines_of, write_result
    from fedkd.simulations.reproduction.reproduction import reproduce as reproduce_paper

    overrides = [*([f"data.root={str(root)!r}"] if root else []), *(set_ or [])]
    result = reproduce_paper(method, seed, out, overrides)
    for line in lines_of(result):
        typer.echo(line)
    if json is not None:
        write_result(result, json)


@app.command()
def partition(
    experiment: Annotated[str, typer.Argument(help="As `run` takes it.")],
    file: Annotated[Path, typer.Argument(help="New .npz: client_0, client_1, ..., of indices.")],
    set_: Overrides = None,
) -> None:
    """Write which training samples each institution of an experiment has, for other systems."""
    _announce()
    from fedkd.experiment import load_experiment
    from fedkd.simulations.partition_export import export_partition

    export_partition(load_experiment(experiment, set_ or []), file)


app.command()(watch)


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="One of them: its equations, departures and arguments.")
    ] = None,
) -> None:
    """List every method: its paper, what it asks of institutions, what that discloses."""
    from fedkd.simulations.method_list import print_method, print_methods

    if name is None:
        print_methods()
    else:
        print_method(name)


@app.command()
def experiments() -> None:
    """List every shipped experiment, with the first sentence of its file."""
    from fedkd.simulations.experiment_list import print_experiments

    print_experiments()


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")]) -> None:
    """Build the report page of a finished run again."""
    from fedkd.server.report.page import build_report

    typer.echo(str(build_report(folder)))


def main() -> None:
    """Entry point: every error is one line; a `FedkdError` has exit status 2."""
    command_line.main(app, "fedkd")


if __name__ == "__main__":
    main()
