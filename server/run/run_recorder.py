"""Run recorder: a `fedkd.loop.Watch` that writes events, scores, gallery, result and report."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fedkd.aggregation.fusion_of_cards import build_fusion
from fedkd.core.earlier_student import TeacherCards
from fedkd.core.task import Score, Task
from fedkd.domains import domain_of
from fedkd.evaluation import ScoreDuringRun, time_to_score, training_stability
from fedkd.experiment import Experiment
from fedkd.loop import Distilled, Progress
from fedkd.methods import Method, make
from fedkd.protocol import Card, LabelSpaces, Signal, class_names_of
from fedkd.server.hub.answer_times import answer_time_quantile
from fedkd.server.report.embeddings.kept_relations import keep_gallery_embeddings
from fedkd.server.report.main_scores import MAIN_SCORES, main_score
from fedkd.server.report.page import build_report
from fedkd.server.report.page_kinds import domain_page, task_page
from fedkd.server.report.records.event_schema import current_kind
from fedkd.server.report.records.result_parts import EnsembleScore, TaskScores
from fedkd.server.report.records.result_schema import StudentScore
from fedkd.server.report.records.run_folder import RunFolder
from fedkd.server.report.records.sample_history import sample_history
from fedkd.server.report.tables.predictions import TestOutputs
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.earlier_run import earlier_run
from fedkd.server.run.ensemble_warnings import ensemble_warnings
from fedkd.server.run.estimator_of_run import ScoreModel, check_parity, estimator_of_run
from fedkd.server.run.growth_of_run import growth_record
from fedkd.server.run.manifest import versions
from fedkd.synthesis import NONE
from fedkd.tasks import task_of

SCORES = 40
"""Number of evaluations of the student during a run, if there is test data."""

BROUGHT_TEACHERS = ("hub", "flower", "python")
"""Engines over which institutions may have models of their own."""
MainScoreOf = Callable[[nn.Module], Mapping[str, float | None]]
"""Returns the main score of a student by its name, see `Task.main_score`; does not change it."""


@dataclass(frozen=True)
class Traffic:
    """Queries to one institution and bytes of traffic, from its counters."""

    samples_asked: int = 0
    samples_pulled_back: int = 0
    bytes_sent: int = 0
    """To the institution."""
    bytes_received: int = 0
    """From it."""
    refusals: int = 0
    questions: int = 0
    """Sent to it; 0 if not counted."""
    recipes: int = 0
    """Of them, those sent with a recipe in place of the samples."""
    answer_seconds_median: float | None = None
    """From a question to its answer or refusal; None without a network."""
    answer_seconds_p90: float | None = None
    """Nine of ten answers came within these."""

    @property
    def counts(self) -> dict[str, int]:
        """The integer fields, which add up over the lives of a run."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}


def traffic_of(counts: Mapping[str, int]) -> Traffic:
    """The counters of an institution that belong in the result."""
    whole = {of.name: counts.get(of.name, 0) for of in fields(Traffic) if of.default is not None}
    times = (answer_time_quantile(counts, share) for share in (0.5, 0.9))
    median, p90 = (None if each is None else float(f"{each:.3g}") for each in times)
    return Traffic(**whole, answer_seconds_median=median, answer_seconds_p90=p90)


Scores = Mapping[str, Score]


@dataclass(frozen=True)
class Evaluation:
    """Scores that only an engine with test data can compute; absent if unknown."""

    student: Scores = field(default_factory=dict)
    """By name of a field of `fedkd.server.report.records.result_schema.StudentScore`."""
    ensemble: Scores = field(default_factory=dict)
    teachers: Mapping[str, Scores] = field(default_factory=dict)
    """By name of institution."""
    recall: Mapping[str, float | None] | None = None
    """The student's, by name of class."""
    outputs: TestOutputs | None = None
    """On test data."""
    score_model: ScoreModel | None = None
    """Scores another model on the test data."""
    relations: Mapping[str, Any] | None = None
    """Of embeddings: controls and groups, as in ``result.json``."""
    growth: Scores = field(default_factory=dict)
    """Of a grown run, by name of a field of `GrowthRecord`."""
    simulated: bool = True
    """Whether the experiment defines the teachers' models; real institutions bring their own."""


class RunRecorder:
    """Writes the folder of one run.

    Args:
        path: folder of the run, which is empty or does not exist.
        experiment: resolved.
        engine: name of the engine that drives the loop.
        score: evaluates the student; None if the coordinator has no test data.
        listeners: called with the same events, progress bars say.
        checkpoint: of the run, whose folder is used; a resumed one continues its events.
    """

    def __init__(
        self,
        path: Path,
        experiment: Experiment,
        engine: str,
        score: MainScoreOf | None = None,
        listeners: Sequence[Callable[[Progress], None]] = (),
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.folder = RunFolder.create(path) if checkpoint is None else checkpoint.folder
        self.experiment, self.engine, self.score = experiment, engine, score
        self.listeners = listeners
        self.student: nn.Module | None = None
        """The student that is being trained; set by the driver."""
        self._asked: list[tuple[int, int, str]] = []  # asked so far, images, origin
        self._scores: list[ScoreDuringRun] = []
        self._warnings = dict[str, None]()  # texts, each once, in their order
        self._earlier = earlier_run(experiment.grow)
        self._started = time.monotonic() - (checkpoint.seconds if checkpoint else 0.0)
        self._resumed = checkpoint.manifest.resumed if checkpoint else 0
        for event in self.folder.stored_events():
            self._track(event)

    def __call__(self, progress: Progress) -> None:
        """Write one event, and score the student if that is due."""
        progress = Progress(current_kind(progress.kind), progress.facts)
        facts = dict(progress.facts)
        done = facts.pop("done", 0.0)
        self._write({"kind": progress.kind, **facts})
        if progress.kind == "trained" and isinstance(done, float):
            self._score_if_due(done, facts)
        for listener in self.listeners:
            listener(progress)

    def _score_if_due(self, done: float, facts: Mapping[str, object]) -> None:
        if self.score is None or self.student is None or done < len(self._scores) / SCORES:
            return
        at = {"step": facts["step"], "asked": facts["asked"], "seconds": self._seconds}
        event = {**at, **self.score(self.student)}
        self._write({"kind": "scored", **event})
        for listener in self.listeners:
            listener(Progress("scored", {**event, "done": done}))

    def _write(self, event: Mapping[str, Any]) -> None:
        self.folder.append_event(event)
        self._track(event)

    def _track(self, event: Mapping[str, Any]) -> None:
        """Keep what the result and the gallery need of an event."""
        if event["kind"] == "asked":
            self._asked.append((event["asked"], event["count"], event["origin"]))
        if event["kind"] == "warned":
            self._warnings[event["text"]] = None
        if event["kind"] == "scored":
            known = [event.get(score.field) for score in MAIN_SCORES.values()]
            score = next((float(value) for value in known if value is not None), 0.0)
            self._scores.append(ScoreDuringRun(score, event["asked"], event.get("seconds")))

    @property
    def _seconds(self) -> float:
        """Of the run so far, earlier processes included."""
        return round(time.monotonic() - self._started, 3)

    def begin(self, cards: Sequence[Card]) -> None:
        """Write what is known before the first question; nothing in a run that is resumed."""
        if not self.folder.events:
            evaluation = Evaluation(simulated=self.engine not in BROUGHT_TEACHERS)
            result = self._result(cards, {}, evaluation)
            self._write({"kind": "started", "result": result})

    def finish(
        self,
        distilled: Distilled,
        cards: Sequence[Card],
        traffic: Mapping[str, Traffic],
        evaluation: Evaluation,
    ) -> dict[str, Any]:
        """Write student, gallery, result and page; returns the content of ``result.json``."""
        rng = torch.Generator().manual_seed(self.experiment.seed)
        teachers = self._teachers(cards)
        shape, labels, task = cards[0].shape, LabelSpaces.of(teachers), task_of(teachers)
        domain = domain_of(cards).record()
        notes = {
            "student": self.experiment.student.model,
            "classes": str(len(labels.names)),
            "class_names": json.dumps(labels.names),
            "experiment": self.experiment.name,
            "seed": str(self.experiment.seed),
            "domain": json.dumps(dict(domain)),
            "task": json.dumps(dict(task.record())),
        }
        onnx = self.folder.write_student(distilled.student, shape, rng, notes)
        self._keep(distilled, domain, task, evaluation.outputs)
        estimator = estimator_of_run(
            *(self.experiment.student.estimator, distilled, teachers, self.folder.path),
            *(self.experiment.seed, evaluation.score_model),
        )
        judged = ensemble_warnings(task, evaluation.ensemble, evaluation.teachers)
        result = {
            **self._result(cards, traffic, evaluation),
            "relations": evaluation.relations,
            "estimator": estimator,
            "student": self._student(distilled, evaluation, task),
            "signals_asked": self._signals(distilled.generator_steps > 0, cards),
            "student_steps": distilled.student_steps,
            "generator_steps": distilled.generator_steps,
            "questions_saved": None if self.experiment.questions.stop is None else distilled.saved,
            "onnx": onnx,
            "warnings": [*judged, *self._warnings],
        }
        self.folder.write_result(result)
        build_report(self.folder.path)
        check_parity(estimator)
        return result

    def _result(
        self, cards: Sequence[Card], traffic: Mapping[str, Traffic], evaluation: Evaluation
    ) -> dict[str, Any]:
        """The result, but for what only the end of a run knows of the student."""
        questions = self.experiment.questions
        fusion = build_fusion(self._method.rule_for(questions.rule), cards, questions.prior)
        teachers, run = self._teachers(cards), self._earlier
        growth = run and growth_record(run, self.experiment, cards, traffic, evaluation.growth)
        return {
            "name": self.experiment.name,
            "classes": LabelSpaces.of(teachers).names,
            "student": {"model": self.experiment.student.model},
            "domain": domain_of(cards).record(),
            "task": task_of(teachers).record(),
            "growth": growth,
            "ensemble": {
                **scores_of(EnsembleScore, evaluation.ensemble),
                "rule": fusion.rule,
                "prior": getattr(fusion, "prior", None),  # of classes alone
            },
            "teachers": [
                self._teacher(index, card, traffic.get(card.name, Traffic()), evaluation)
                for index, card in enumerate(cards)
            ],
            "method": self.experiment.method.name,
            "method_title": self._method.title,
            "engine": self.engine,
            "seed": self.experiment.seed,
            "student_steps": 0,
            "generator_steps": 0,
            "seconds": self._seconds,
            "config": self.experiment.model_dump(mode="json"),
            "versions": versions(),
            "resumed": self._resumed,
        }

    def _teachers(self, cards: Sequence[Card]) -> Sequence[Card]:
        """Cards of the earlier student, if there is one, and of the institutions."""
        return TeacherCards(None if self._earlier is None else self._earlier.student(), cards)

    def _keep(
        self, distilled: Distilled, domain: Mapping[str, Any], task: Task, test: TestOutputs | None
    ) -> None:
        """Write what the page shows of samples and of predictions."""
        shown, history = task_page(task.record()), None
        if self._asked:
            history = sample_history(distilled.bank, self._asked, distilled.student, task)
            domain_page(domain).keep(self.folder, history, domain)
        shown.keep(self.folder, history, test)
        if history is not None and self._method.answers is Signal.FEATURES:
            keep_gallery_embeddings(self.folder, history)

    def _signals(self, trained: bool, cards: Sequence[Card]) -> list[str]:
        """The signals that were asked for; those for a generator only if one was trained."""
        method = self._method.for_cards(self._teachers(cards))
        specs = [spec for spec, _ in method.sources.values()]
        asking = [s for s in specs if trained or getattr(s, "gradient", None) in (None, NONE)]
        signals = {Signal.LOGITS, *(signal for spec in asking for signal in spec.needs.signals)}
        return sorted(method.asked(frozenset(signals)))

    @property
    def _method(self) -> Method:
        return make(self.experiment.method.name, self.experiment.method.arguments)

    def _student(self, distilled: Distilled, evaluation: Evaluation, task: Task) -> dict[str, Any]:
        scores = [each.score for each in self._scores]
        accuracies = scores if main_score(task.record()).is_share else []
        final = evaluation.student.get(task.main_score)
        reached = time_to_score(self._scores, final if isinstance(final, float) else None)
        whole, half = training_stability(accuracies), training_stability(accuracies, last=0.5)
        return {
            **scores_of(StudentScore, evaluation.student),
            "model": self.experiment.student.model,
            "best_test_accuracy": max(accuracies, default=None),
            "scores": len(self._scores),
            "mean_accuracy": whole and whole.mean,
            "variance_of_accuracy": whole and whole.variance,
            "mean_accuracy_last_half": half and half.mean,
            "variance_of_accuracy_last_half": half and half.variance,
            "recall": evaluation.recall,
            "questions_to_95": reached and reached.asked,
            "seconds_to_95": reached and reached.seconds,
            "held_back": dict(distilled.held_back) or None,
            "parameters": sum(p.numel() for p in distilled.student.parameters()),
        }

    def _teacher(
        self, index: int, card: Card, traffic: Traffic, evaluation: Evaluation
    ) -> dict[str, Any]:
        models, guarantee = self.experiment.institutions.models, card.guarantee
        return {
            "name": card.name,
            "model": models[index % len(models)] if evaluation.simulated else "its own",
            **scores_of(TaskScores, evaluation.teachers.get(card.name, {})),
            **vars(traffic),
            "epsilon": guarantee.epsilon if guarantee else None,
            "delta": guarantee.delta if guarantee else None,
            "mechanism": str(guarantee) if guarantee else None,
            "guarantee": asdict(guarantee) if guarantee else None,
            "classes": class_names_of(card),
            "class_counts": card.class_counts,
            "number_errors": {n.name: n.error for n in card.numbers if n.error is not None},
            "signals": sorted(card.signals),
            "pull_back": card.pull_back,
            "tells_scores": card.scores,
            "sample_cap": card.samples,
        }


def scores_of(model: type[TaskScores], known: Scores) -> dict[str, Score]:
    """The scores of ``model`` that are known, and None for what every task's scores have."""
    unknown = dict.fromkeys(TaskScores.model_fields)
    return {**unknown, **{name: known[name] for name in model.model_fields if name in known}}
