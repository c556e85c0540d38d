"""Contexts and answered batches, so that a part of a method can be built and heard alone."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedkd.aggregation.fusion_of_cards import cached_fusion
from fedkd.core.bank import Bank
from fedkd.core.device import CPU
from fedkd.core.interfaces import Context
from fedkd.core.public_data import PublicData
from fedkd.core.run_plan import Plan
from fedkd.core.source_types import AnsweredBatch, FollowUps, Proposal
from fedkd.domains import Images
from fedkd.losses import l1_centred
from fedkd.models import InProcess
from fedkd.procedural import build_priors
from fedkd.protocol import Ask, Card, Reply, Request, Signal, label_spaces_of
from fedkd.student.self_paced_curriculum import UNIFORM
from fedkd.synthesis import to_bytes
from fedkd.tasks import Classification


@dataclass
class Clock:
    """A clock that a test sets."""

    plan: Plan
    asked: int = 0
    progress: float = 0.0


@dataclass
class Recorded:
    """What parts put into the record of a run."""

    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, kind: str, **facts: Any) -> None:
        self.events.append((kind, facts))


def context_of(
    student: nn.Module, shape: tuple[int, int, int], classes: int, **changes: Any
) -> Context:
    """A context around ``student``: an empty bank, a small plan and seed 0, but for ``changes``."""
    plan = changes.get("plan", Plan(64, 8, 10, student_batch=8))
    values: dict[str, Any] = {
        "loss": l1_centred,
        "sample_weights": UNIFORM.weights,
        "plan": plan,
        "bank": Bank(),
        "priors": build_priors("noise"),
        "public": None,
        "seed": 0,
        "rng": torch.Generator().manual_seed(0),
        "compute": CPU,
        "clock": Clock(plan),
        "record": Recorded(),
    }
    values["task"] = Classification(tuple(map(str, range(classes))))
    values["domain"] = Images(shape)
    if isinstance(changes.get("public"), Tensor):
        changes["public"] = PublicData.of(changes["public"])
    return Context(student=student, shape=shape, classes=classes, **{**values, **changes})


def answered_by(
    teachers: InProcess,
    proposal: Proposal,
    *,
    rule: str = "mean_logits",
    selected: Tensor | None = None,
    progress: float = 0.0,
) -> AnsweredBatch:
    """What the teachers answer to a proposal, as the loop would hand it to the source."""
    images = to_bytes(proposal.images)
    answers = teachers.answer(Ask(images, proposal.signals, exact=proposal.images.requires_grad))
    fusion = cached_fusion(rule, teachers.cards)
    with torch.no_grad():
        target = fusion.of(answers)[Signal.LOGITS]
    labels = label_spaces_of(teachers.cards)
    return AnsweredBatch(proposal, images, answers, target, selected, labels, fusion, progress)


def answered_with(proposal: Proposal, target: Tensor) -> AnsweredBatch:
    """A proposal to which one institution answered ``target``, (B, K)."""
    images = to_bytes(proposal.images)
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    cards = (Card("a", target.shape[1], shape, frozenset({Signal.LOGITS}), True),)
    answers = {"a": Reply({Signal.LOGITS: target})}
    fusion = cached_fusion("mean_logits", cards)
    labels = label_spaces_of(cards)
    return AnsweredBatch(proposal, images, answers, target, None, labels, fusion, 0.0)


def drained(follow_ups: FollowUps | None, teachers: InProcess) -> list[Request | Proposal]:
    """What a source asks on account of a batch, each answered, until it has learned."""
    asked: list[Request | Proposal] = []
    if follow_ups is None:
        return asked
    try:
        request = next(follow_ups)
        while True:
            asked.append(request)
            if isinstance(request, Proposal):
                answers = answered_by(teachers, request).answers
            else:
                answers = teachers.answer(request)
            request = follow_ups.send(answers)
    except StopIteration:
        return asked
