"""Fit a student: to teachers in this process, or to institutions that connect over the network."""

import secrets
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from fedkd.api.fit_result import FitResult
from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.models import Classes, Outputs
from fedkd.server.call_settings import Arguments, Settings, experiment_of, student_factory
from fedkd.server.coordinator import Coordinator, StudentFactory, ingredients
from fedkd.server.report.records.run_folder import check_unused
from fedkd.server.run.console import ProgressBars, console, progress_bars
from fedkd.server.run.run_recorder import Evaluation, RunRecorder

LOCAL, NETWORK = "python", "hub"
"""Engines, as recorded."""
WAIT = 600.0
"""Seconds that institutions may take to connect."""


def fit(
    student: nn.Module | StudentFactory | str,
    teachers: Mapping[str, object] | Sequence[object] | None = None,
    *,
    shape: tuple[int, int, int] | None = None,
    classes: Classes | Mapping[str, Classes] = None,
    outputs: Outputs | Mapping[str, Outputs] = "logits",
    schema: str | Path | None = None,
    budget: int | None = None,
    steps: int | None = None,
    method: str | None = None,
    seed: int | None = None,
    settings: Settings = None,
    out: str | Path | None = None,
    progress: bool | None = None,
    listen: str | None = None,
    institutions: int = 1,
    token: str | None = None,
    tls: str | Path | None = None,
    wait: float = WAIT,
) -> FitResult:
    """Train a student on what teachers answer to samples that are invented for it.

    With ``teachers`` all is in this process, and nothing is private. With ``listen`` institutions
    connect, each with `fedkd.serve` or ``fedkd-client serve``, and keep their teachers.

    Args:
        student: an nn.Module, (B, C, H, W) in [0, 1] -> (B, K), of which a copy learns; the name
            of a network of fedkd's; or a function of K and (C, H, W) that makes one.
        teachers: by name of their institution. Each is an nn.Module, a fitted scikit-learn
            classifier of (N, C H W) floats in [0, 1], a `fedkd.models.Teacher`, the path of a model
            file (.onnx, .pt2, .skops), or a source such as "timm:resnet18".
        shape: (C, H, W) of the teachers' images.
        classes: number or names of a teacher's outputs, for all or by name of teacher. Where names
            differ, the student knows all of them. Modules and classifiers can do without. Where
            teachers have several tasks: by name of teacher, names of classes by name of task.
        outputs: "probabilities" where modules or files end in a softmax, likewise.
        schema: where teachers read rows of a table, its TOML file, in place of shape and classes.
        budget: samples asked of each teacher; never exceeded.
        steps: of the student.
        method: of a paper, by name, with its defaults; see ``fedkd methods``. Where it shall have
            arguments, leave this out, and give ``settings={"method": {"name": ...}}``.
        seed: of everything random.
        settings: all else that an experiment's TOML may have: nested tables, its path, or the name
            of one that ships. Arguments above count more.
        out: folder for the run's files, empty or not there yet; None: they go with the result.
        progress: whether progress bars are shown; None: on a terminal or in a notebook.
        listen: host:port on which institutions connect, in place of ``teachers``.
        institutions: that are waited for, > 0.
        token: that they have to know; None makes one, and prints it.
        tls: folder of the coordinator's certificates, see
            ``fedkd-server certificates``; None: plain text, on this machine alone.
        wait: seconds that institutions may take to connect.

    Returns:
        The student with its classes, scores, files and page.

    Raises:
        SettingsError: arguments that are missing or do not fit each other or the teachers.
        DataError: a teacher cannot be opened, or answers otherwise than it should.
        QuorumLost: too few institutions connected, or answered.
    """
    if (teachers is None) == (listen is None):
        raise SettingsError(
            "give either teachers, which are in this process, or listen, where institutions connect"
        )
    described = _Described(shape, classes, outputs, None if schema is None else Path(schema))
    if teachers is None:
        named = dict[str, object]()
        described.check_unused(wait)
    else:
        named = _named(teachers)
        described.check_names(named)
        _check_no_network(institutions, token, tls, wait)
    arguments = Arguments(seed, method, budget, steps)
    experiment = experiment_of(settings, arguments, student, len(named) or institutions)
    build = student_factory(student)
    path, temporary = _folder(out)
    run = _Run(experiment, build, path, _is_shown(progress))
    with _same_threads():
        if listen is None:
            network, result = _fit_here(run, named, described)
        else:
            network, result = _fit_over_network(run, listen, token, tls, wait)
    return FitResult(network, tuple(result["classes"]), result, path, temporary)


def _folder(out: str | Path | None) -> tuple[Path, TemporaryDirectory[str] | None]:
    """The run's folder, empty or not there yet; a temporary one where none is named."""
    if out is not None:
        check_unused(Path(out))
        return Path(out), None
    temporary = TemporaryDirectory(prefix="fedkd-")
    return Path(temporary.name, "run"), temporary


@dataclass(frozen=True, eq=False)
class _Run:
    """What both ways of a fit have in common."""

    experiment: Experiment
    build: StudentFactory | None
    path: Path
    shown: bool

    @contextmanager
    def recorder(self, engine: str, waits_for: str) -> Iterator[tuple[RunRecorder, Any]]:
        """The recorder, and what is told how many institutions are ready."""
        bars = progress_bars(self.experiment, waits_for) if self.shown else nullcontext(None)
        with bars as shown:
            watching: tuple[ProgressBars, ...] = () if shown is None else (shown,)
            recorder = RunRecorder(self.path, self.experiment, engine, listeners=watching)
            yield recorder, (lambda count: None) if shown is None else shown.ready


@dataclass(frozen=True)
class _Described:
    """What the user says of his teachers."""

    shape: tuple[int, int, int] | None
    classes: Classes | Mapping[str, Classes]
    outputs: Outputs | Mapping[str, Outputs]
    schema: Path | None

    def check_names(self, teachers: Collection[str]) -> None:
        """Refuse what is said of a teacher that there is none of.

        Raises:
            SettingsError: ``classes`` or ``outputs`` name it.
        """
        for what, said in (("classes", self.classes), ("outputs", self.outputs)):
            for name in said if isinstance(said, Mapping) else ():
                if name not in teachers:
                    raise SettingsError(
                        f"{what} name the teacher {name!r}; there are {', '.join(teachers)}; "
                        "correct the name"
                    )

    def check_unused(self, wait: float) -> None:
        """Refuse what institutions say themselves when they connect, and a wait below 0.

        Raises:
            SettingsError: it is given.
        """
        said = self.shape, self.classes, self.schema
        if any(each is not None for each in said) or self.outputs != "logits":
            raise SettingsError(
                "shape, classes, outputs and schema describe teachers in this process; with "
                "listen institutions say theirs, so leave these out"
            )
        if wait < 0:
            raise SettingsError(f"wait is {wait}; expected seconds, 0 or more")


def _fit_here(
    run: _Run, teachers: Mapping[str, object], described: _Described
) -> tuple[nn.Module, dict[str, Any]]:
    """Fit to teachers in this process: each behind a release gate, as an institution's is."""
    from fedkd.client.institution import brought_institution, simulated_policy
    from fedkd.simulations.engines.local import LocalInstitutions

    # Neither is known of a teacher that was trained elsewhere.
    policy = replace(simulated_policy(run.experiment), class_counts=False, scores=False)
    classes, outputs = described.classes, described.outputs
    brought = [
        brought_institution(
            name,
            teacher,
            policy,
            shape=described.shape,
            classes=classes.get(name) if isinstance(classes, Mapping) else classes,
            outputs=outputs if isinstance(outputs, str) else outputs.get(name, "logits"),
            schema=described.schema,
        )
        for name, teacher in teachers.items()
    ]
    replacements = dict(enumerate(brought))
    with run.recorder(LOCAL, "teachers") as (recorder, ready):
        local = LocalInstitutions(run.experiment, run.path, ready, replacements)
        parts = ingredients(run.experiment, local.cards, build=run.build)
        coordinator = Coordinator(parts, list(local.cards), local.answer, recorder)
        recorder.begin(coordinator.cards)
        distilled = coordinator.finish()
    evaluation = Evaluation(simulated=False)
    return distilled.student, recorder.finish(distilled, local.cards, local.traffic, evaluation)


def _fit_over_network(
    run: _Run, listen: str, token: str | None, tls: str | Path | None, wait: float
) -> tuple[nn.Module, dict[str, Any]]:
    """Fit to institutions that connect to a hub in this process."""
    from fedkd.server.card_expectation import expectation_failure
    from fedkd.server.drivers.standalone_driver import distil_over_hub
    from fedkd.server.hub.hub import MAX_INSTITUTIONS, Hub
    from fedkd.server.hub.tls_certificates import server_credentials
    from fedkd.server.run.quorum import Quorum
    from fedkd.server.start_selection import await_institutions, misfits_at_start

    experiment, build = run.experiment, run.build
    count = experiment.institutions.count
    credentials = None if tls is None else server_credentials(Path(tls))
    secret = token or secrets.token_urlsafe()
    quorum = Quorum(count, min(count, experiment.questions.quorum), wait, None)
    with Hub(
        *(secret, listen, credentials),
        max_institutions=max(MAX_INSTITUTIONS, 2 * count),
        misfit=lambda card: expectation_failure(experiment.expect, card),
    ) as hub:
        if token is None:
            print(f"fedkd: institutions may dial {hub.address} with {secret}", file=sys.stderr)
        with run.recorder(NETWORK, "institutions") as (recorder, ready):
            cards = await_institutions(
                hub, quorum, ready, lambda cards: misfits_at_start(experiment, cards, build)
            )
            result = distil_over_hub(experiment, hub, cards, recorder, build=build)
    assert recorder.student is not None
    return recorder.student, result


def _named(teachers: Mapping[str, object] | Sequence[object]) -> dict[str, object]:
    """Teachers by the name of their institution.

    Raises:
        SettingsError: there is none.
    """
    if not isinstance(teachers, Mapping | Sequence) or isinstance(teachers, str):
        what = "path" if isinstance(teachers, str | Path) else type(teachers).__name__
        raise SettingsError(
            f"teachers is one {what}; give a list, or a mapping of names to teachers"
        )
    named = (
        dict(teachers)
        if isinstance(teachers, Mapping)
        else {f"institution-{place}": teacher for place, teacher in enumerate(teachers)}
    )
    if not named:
        raise SettingsError("there are no teachers; give one or more, or listen for institutions")
    return named


def _check_no_network(
    institutions: int, token: str | None, tls: str | Path | None, wait: float
) -> None:
    """Refuse what is of institutions that connect, where teachers are in this process.

    Raises:
        SettingsError: it is given.
    """
    if (institutions, token, tls, wait) != (1, None, None, WAIT):
        raise SettingsError(
            "institutions, token, tls and wait are of institutions that connect, and teachers are "
            "in this process; leave them out, or give listen in the place of teachers"
        )


def _is_shown(progress: bool | None) -> bool:
    return console.is_terminal or console.is_jupyter if progress is None else progress


@contextmanager
def _same_threads() -> Iterator[None]:
    """Give the caller's torch its number of threads back, which is a setting of a run."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
