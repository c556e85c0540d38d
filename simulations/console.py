"""Print the resolved settings of an experiment in one line before its run."""

from fedkd.experiment import Experiment
from fedkd.process.plural import counted
from fedkd.server.run.console import console


def print_experiment(experiment: Experiment, engine: str) -> None:
    """Print name, engine, seed, institutions, method and budgets of a run."""
    i, q = experiment.institutions, experiment.questions
    split = f"Dirichlet {i.alpha}" if i.partition == "dirichlet" else i.partition
    arguments = ", ".join(f"{k}={v}" for k, v in experiment.method.arguments.items())
    console.print(
        f"[bold]{experiment.name}[/bold] · {engine} · seed {experiment.seed} · "
        f"{counted(i.count, 'institution')} on {i.data} ({split}) · "
        f"{experiment.method.name}({arguments}) · "
        f"{counted(q.budget, 'sample')} asked of each · "
        f"{counted(experiment.student.steps, 'student step')}"
    )
