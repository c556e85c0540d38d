"""The command line ``fedkd audit``: mechanism, membership, canaries. Slow imports come late."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkd.errors import SettingsError
from fedkd.process.command_line import App

if TYPE_CHECKING:
    from fedkd.experiment import Experiment

app = App(help="Attack what is released. An audit proves violations, and never a guarantee.")
ExperimentName = Annotated[
    str, typer.Argument(help="A .toml file, or the name of a shipped experiment.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value, as often as needed."),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder of the audit [runs/audit-KIND-TIME]."),
]
Json = Annotated[
    Path | None,
    typer.Option("--json", help="File for the figures [FOLDER/KIND.json]."),
]
Seed = Annotated[int | None, typer.Option(help="Overrides the seed of the experiment.")]


@app.command()
def mechanism(
    experiment: ExperimentName = "digits-audit",
    set_: Overrides = None,
    out: Out = None,
    json: Json = None,
    trials: Annotated[int, typer.Option(min=4, help="Releases of each input.")] = 10_000,
    error: Annotated[
        float, typer.Option(help="Probability that any true claim of the table is refuted.")
    ] = 0.01,
    planted: Annotated[
        bool, typer.Option(help="Audit the same code with half its noise, too.")
    ] = False,
) -> None:
    """Tell releases of two neighbouring inputs apart; status 1 if a claim is refuted."""
    _announce()
    from fedkd.simulations.audit import runner

    with runner.AuditOutput("mechanism", _load_experiment(experiment, set_), out, json) as output:
        raise typer.Exit(runner.run_mechanism_audit(output, trials, error, planted))


@app.command()
def membership(
    experiment: Annotated[
        str,
        typer.Argument(
            metavar="[EXPERIMENT|RUN|STUDENT]",
            help="An experiment is run anew in shadow federations. Or the folder of a "
            "finished simulation, or the student's file in it: what there is, is attacked.",
        ),
    ] = "digits-audit",
    set_: Overrides = None,
    out: Out = None,
    json: Json = None,
    seed: Seed = None,
    worlds: Annotated[
        int,
        typer.Option(
            min=3, help="Shadow federations of each kind: each is attacked with the others."
        ),
    ] = 8,
    images: Annotated[int, typer.Option(min=1, help="Candidates for membership.")] = 800,
    label_noise: Annotated[
        float, typer.Option(min=0, max=1, help="Share of labels that are replaced by wrong ones.")
    ] = 0.2,
    scores: Annotated[
        Path | None,
        typer.Option(help="New .npz or .csv for margins or scores of every sample."),
    ] = None,
) -> None:
    """Infer membership from answers and from the student, without and with DP."""
    _announce()
    from fedkd.privacy.score_export import check_export
    from fedkd.simulations.audit import finished_run, runner

    check_export(scores)
    if finished_run.is_finished_run(experiment):
        if set_ or out:
            raise SettingsError("--set and --out are of an experiment that is run anew; drop them")
        runner.run_finished_audit(Path(experiment), images, seed or 0, scores, json)
        return
    with runner.AuditOutput(
        "membership", _load_experiment(experiment, set_, seed), out, json
    ) as output:
        runner.run_membership_audit(output, worlds, images, label_noise, scores)


@app.command()
def canaries(
    experiment: ExperimentName = "digits-audit",
    set_: Overrides = None,
    out: Out = None,
    json: Json = None,
    seed: Seed = None,
    images: Annotated[
        int, typer.Option(min=1, help="Canaries, each a member by a fair coin.")
    ] = 500,
    guesses: Annotated[
        int | None,
        typer.Option(min=1, help="Number of them that are guessed [half]."),
    ] = None,
    error: Annotated[
        float, typer.Option(help="Probability that a bound is above the truth.")
    ] = 0.05,
) -> None:
    """Train a teacher with mislabelled canaries; status 1 if its epsilon is refuted."""
    _announce()
    from fedkd.simulations.audit import runner

    with runner.AuditOutput(
        "canaries", _load_experiment(experiment, set_, seed), out, json
    ) as output:
        raise typer.Exit(
            runner.run_canary_audit(output, images, guesses or max(1, images // 2), error)
        )


def _announce() -> None:
    typer.echo("fedkd: loading ...", err=True)
    from fedkd.simulations.engines.environment_variables import set_environment_defaults

    set_environment_defaults()


def _load_experiment(
    name: str, overrides: list[str] | None, seed: int | None = None
) -> "Experiment":
    from fedkd.experiment import load_experiment

    return load_experiment(
        name, [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])]
    )
