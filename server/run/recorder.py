"""Keeps the record of a run: events, scores, gallery, result, page. Knows no wire and no data.

A chronicle is a `fedkd.loop.Watch`: whatever drives the loop tells it of progress.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fedkd.aggregation.fusion import fusion
from fedkd.core.bank import Bank
from fedkd.evaluation.metrics import course
from fedkd.experiment.experiment import Experiment
from fedkd.loop import Distilled, Progress
from fedkd.methods import Method, make
from fedkd.protocol.label_spaces import Labels, names_of
from fedkd.protocol.signals import Card, Signal
from fedkd.server.report.page import build_report
from fedkd.server.report.result_records import Gallery
from fedkd.server.report.run_folder import RESULT, RunFolder
from fedkd.server.run.checkpoint import Checkpoint, settle
from fedkd.server.run.manifest import versions

SCORES = 40
"""Times that the student is scored on the way, where there is something to score it on."""
SHOWN = 48
"""Images in the gallery."""

Score = Callable[[nn.Module], float]
"""Accuracy of a student in [0, 1]; leaves it as it was."""


@dataclass(frozen=True)
class Traffic:
    """What one institution was asked, and what that cost in bytes, as its counters say."""

    samples_asked: int = 0
    samples_pulled_back: int = 0
    bytes_sent: int = 0
    """To the institution."""
    bytes_received: int = 0
    """From it."""
    refusals: int = 0
    questions: int = 0
    """That were put to it; 0 where nobody counted."""
    recipes: int = 0
    """Of them, those that named their images and did not show them."""


def traffic_of(counts: Mapping[str, int]) -> Traffic:
    """What was counted of an institution, as the record has it."""
    return Traffic(**{name: counts.get(name, 0) for name in Traffic.__dataclass_fields__})


@dataclass(frozen=True)
class Verdict:
    """Accuracies that only an engine can know; None where nobody told."""

    student: float | None = None
    ensemble: float | None = None
    agreement: float | None = None
    teachers: Mapping[str, float] | None = None
    recall: Mapping[str, float | None] | None = None
    """The student's, by name of class."""
    fidelity: float | None = None
    fidelity_double_root: float | None = None
    """Both of student and ensemble, see `fedkd.evaluation.metrics`."""
    simulated: bool = True
    """Whether the experiment says what the teachers are; an owner's own are nobody's business."""


class Chronicle:
    """The record of one run.

    Args:
        path: folder of the run, empty or not there yet.
        experiment: resolved.
        engine: which one drives the loop.
        score: how well the student does, None where the coordinator cannot know.
        listeners: further watchers, a progress bar say.
        checkpoint: the way back of the run, whose folder it then is; the record of one that was
            resumed goes on where the run does.
    """

    def __init__(
        self,
        path: Path,
        experiment: Experiment,
        engine: str,
        score: Score | None = None,
        listeners: Sequence[Callable[[Progress], None]] = (),
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.folder = RunFolder.create(path) if checkpoint is None else checkpoint.folder
        self.experiment, self.engine, self.score = experiment, engine, score
        self.listeners = listeners
        self.student: nn.Module | None = None
        """The student that is being trained; whoever builds it puts it here."""
        self._asked: list[tuple[int, int, str]] = []  # asked so far, images, origin
        self._scores: list[float] = []
        self._started = time.monotonic() - (checkpoint.seconds if checkpoint else 0.0)
        self._resumed = checkpoint.manifest.resumed if checkpoint else 0
        for event in self.folder.told():
            self._remember(event)

    def __call__(self, progress: Progress) -> None:
        """Write one event down, and score the student if that is due."""
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
        accuracy = self.score(self.student)
        event = {"step": facts["step"], "asked": facts["asked"], "accuracy": accuracy}
        self._write({"kind": "scored", **event})
        for listener in self.listeners:
            listener(Progress("scored", {**event, "done": done}))

    def _write(self, event: Mapping[str, Any]) -> None:
        self.folder.event(event)
        self._remember(event)

    def _remember(self, event: Mapping[str, Any]) -> None:
        """What the result and the gallery will need of it."""
        if event["kind"] == "asked":
            self._asked.append((event["asked"], event["count"], event["origin"]))
        if event["kind"] == "scored":
            self._scores.append(float(event["accuracy"]))

    def finish(
        self,
        distilled: Distilled,
        cards: Sequence[Card],
        traffic: Mapping[str, Traffic],
        verdict: Verdict,
    ) -> dict[str, Any]:
        """Write student, gallery, result and page; returns what stands in ``result.json``."""
        rng = torch.Generator().manual_seed(self.experiment.seed)
        shape, labels = cards[0].shape, Labels.of(cards)
        notes = {
            "student": self.experiment.student.model,
            "classes": str(len(labels.names)),
            "class_names": json.dumps(labels.names),
            "experiment": self.experiment.name,
            "seed": str(self.experiment.seed),
        }
        onnx = self.folder.write_student(distilled.student, shape, rng, notes)
        if self._asked:
            self.folder.write_gallery(gallery(distilled.bank, self._asked))
        result = {
            "name": self.experiment.name,
            "classes": labels.names,
            "student": self._student(distilled.student, verdict),
            "ensemble": {
                "accuracy": verdict.ensemble,
                "rule": fusion(self._method.rule_for(self.experiment.questions.rule), cards).rule,
            },
            "teachers": [
                self._teacher(index, card, traffic.get(card.name, Traffic()), verdict)
                for index, card in enumerate(cards)
            ],
            "method": self.experiment.method.name,
            "signals_asked": self._signals(trained=distilled.generator_steps > 0),
            "engine": self.engine,
            "seed": self.experiment.seed,
            "student_steps": distilled.student_steps,
            "generator_steps": distilled.generator_steps,
            "seconds": round(time.monotonic() - self._started, 3),
            "config": self.experiment.model_dump(mode="json"),
            "versions": versions(),
            "resumed": self._resumed,
            "onnx": onnx,
        }
        self.folder.write_result(result)
        build_report(self.folder.path)
        return result

    def _signals(self, trained: bool) -> list[str]:
        """What institutions were asked for; what judges a generator, only if one was trained."""
        return sorted(self._method.needs.signals if trained else {Signal.LOGITS})

    @property
    def _method(self) -> Method:
        return make(self.experiment.method.name, self.experiment.method.arguments)

    def _student(self, student: nn.Module, verdict: Verdict) -> dict[str, Any]:
        whole, half = course(self._scores), course(self._scores, last=0.5)
        return {
            "model": self.experiment.student.model,
            "accuracy": verdict.student,
            "best_test_accuracy": max(self._scores, default=None),
            "scores": len(self._scores),
            "mean_accuracy": whole and whole.mean,
            "variance_of_accuracy": whole and whole.variance,
            "mean_accuracy_last_half": half and half.mean,
            "variance_of_accuracy_last_half": half and half.variance,
            "agreement": verdict.agreement,
            "fidelity": verdict.fidelity,
            "fidelity_double_root": verdict.fidelity_double_root,
            "recall": verdict.recall,
            "parameters": sum(p.numel() for p in student.parameters()),
        }

    def _teacher(
        self, index: int, card: Card, traffic: Traffic, verdict: Verdict
    ) -> dict[str, Any]:
        models, promise = self.experiment.institutions.models, card.guarantee
        return {
            "name": card.name,
            "model": models[index % len(models)] if verdict.simulated else "its own",
            "accuracy": (verdict.teachers or {}).get(card.name),
            **vars(traffic),
            "epsilon": promise.epsilon if promise else None,
            "delta": promise.delta if promise else None,
            "mechanism": str(promise) if promise else None,
            "guarantee": asdict(promise) if promise else None,
            "classes": names_of(card),
            "class_counts": card.class_counts,
            "signals": sorted(card.signals),
            "pull_back": card.pull_back,
            "tells_scores": card.scores,
            "sample_cap": card.samples,
        }


def completed(path: Path) -> dict[str, Any] | None:
    """Finish a run that was killed between its result and its end: its page, and no way back.

    Args:
        path: of its folder.

    Returns:
        What stands in its ``result.json``; None where nothing, or more than that, is left to do.

    Raises:
        SettingsError: another process is at it.
        DataError: what it left cannot be read.
    """
    if not settle(path, build_report):
        return None
    result: dict[str, Any] = json.loads((path / RESULT).read_bytes())
    return result


def gallery(bank: Bank, asked: Sequence[tuple[int, int, str]]) -> Gallery:
    """Images from all along the run, out of the bank.

    Args:
        bank: everything that was asked about, in order (the last of it where it is bounded).
        asked: for each question the samples asked so far, its images and their origin.
    """
    at = np.concatenate([np.full(count, so_far) for so_far, count, _ in asked])[-len(bank) :]
    origin = np.concatenate([np.full(n, name, dtype="U32") for _, n, name in asked])[-len(bank) :]
    picked = np.unique(np.linspace(0, len(at) - 1, min(SHOWN, len(at))).astype(int))
    images, targets = bank.history()
    confidence, label = targets[torch.from_numpy(picked)].softmax(1).max(1)
    return Gallery(
        images[torch.from_numpy(picked)].numpy(),
        origin[picked],
        at[picked],
        label.numpy(),
        confidence.numpy(),
    )
