"""The words of ``fedkd audit``. Every import that is slow waits."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from fedkd.experiment import Experiment

app = typer.Typer(
    no_args_is_help=True,
    help="Attack what is released. An audit proves violations, and never a guarantee.",
)
Named = Annotated[str, typer.Argument(help="A .toml file, or the name of one that ships.")]
Overrides = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--set", help="section.key=value, as often as needed."),
]
Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Folder of the audit [runs/audit-KIND-TIME]."),
]
Json = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--json", help="File for the figures [FOLDER/KIND.json]."),
]
Seed = Annotated[Optional[int], typer.Option(help="In the place of the experiment's.")]  # noqa: UP045


@app.command()
def mechanism(
    experiment: Named = "digits-audit",
    set_: Overrides = None,
    out: Out = None,
    json: Json = None,
    trials: Annotated[int, typer.Option(min=4, help="Releases of each input.")] = 10_000,
    error: Annotated[
        float, typer.Option(help="Chance that any true claim of the table is called wrong.")
    ] = 0.01,
    planted: Annotated[
        bool, typer.Option(help="Audit the same code with half its noise, too.")
    ] = False,
) -> None:
    """Tell releases of two neighbouring inputs apart; status 1 if a claim is proven wrong."""
    _loading()
    from fedkd.simulations.audit import runner as show

    with show.Written("mechanism", _loaded(experiment, set_), out, json) as written:
        raise typer.Exit(show.mechanism(written, trials, error, planted))


@app.command()
def membership(
    experiment: Named = "digits-audit",
    set_: Overrides = None,
    out: Out = None,
    json: Json = None,
    seed: Seed = None,
    worlds: Annotated[
        int, typer.Option(min=3, help="Federations of each kind: each is attacked by the others.")
    ] = 8,
    images: Annotated[int, typer.Option(min=1, help="Whose membership is asked about.")] = 800,
    label_noise: Annotated[
        float, typer.Option(min=0, max=1, help="Share of labels that are wrong on purpose.")
    ] = 0.2,
) -> None:
    """Find out who was trained on, from answers and from the student, without and with DP."""
    _loading()
    from fedkd.simulations.audit import runner as show

    with show.Written("membership", _loaded(experiment, set_, seed), out, json) as written:
        show.membership(written, worlds, images, label_noise)


@app.command()
def canaries(
    experiment: Named = "digits-audit",
    set_: Overrides = None,
    out: Out = None,
    json: Json = None,
    seed: Seed = None,
    images: Annotated[int, typer.Option(min=1, help="Canaries, in by a fair coin each.")] = 500,
    guesses: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="How many of them are guessed [half]."),
    ] = None,
    error: Annotated[float, typer.Option(help="Chance that a bound is above the truth.")] = 0.05,
) -> None:
    """Train a teacher among mislabelled canaries; status 1 if its epsilon is proven wrong."""
    _loading()
    from fedkd.simulations.audit import runner as show

    with show.Written("canaries", _loaded(experiment, set_, seed), out, json) as written:
        raise typer.Exit(show.canaries(written, images, guesses or max(1, images // 2), error))


def _loading() -> None:
    typer.echo("fedkd: loading ...", err=True)
    from fedkd.simulations.engines.environment_variables import set_environment_defaults

    set_environment_defaults()


def _loaded(name: str, overrides: list[str] | None, seed: int | None = None) -> "Experiment":
    from fedkd.experiment import load

    return load(name, [*(overrides or []), *([f"seed={seed}"] if seed is not None else [])])
