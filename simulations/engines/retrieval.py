"""Evaluate embeddings on the pooled test data of a simulation: recall at k, and groups.

Test samples are queries, searched in a gallery that no institution has trained on. Beside student,
ensemble and teachers stand what they have to be better than: the pixels' cosine, an encoder with
fresh weights, and the mean of the institutions' features, whose spaces do not match.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from fedkd.client.institution import institution_name, simulated_assets
from fedkd.client.vault.trained_vault import TrainedVault
from fedkd.data.dataset import Dataset
from fedkd.data.datasets import open_data
from fedkd.data.gallery import gallery_of
from fedkd.evaluation import cross_relations, predict_logits, recall_at
from fedkd.experiment import Experiment
from fedkd.methods import make
from fedkd.models import build_network
from fedkd.protocol import Card, Signal, as_float, cosine_relations
from fedkd.server.report.tables.predictions import TestOutputs
from fedkd.server.run.run_recorder import Evaluation
from fedkd.simulations.engines.relation_guided import relation_guided
from fedkd.tasks import task_of

Encoder: TypeAlias = Callable[[Tensor], Tensor]
"""(N, C, H, W) -> (N, D)."""
FEATURES = frozenset({Signal.FEATURES})
FRESH_SEED = 1_000_003
"""Added to the seed for the encoder with fresh weights."""
MAX_GROUPED = 1000
"""Samples that are put into groups: spectral clustering takes their number cubed."""


class Retrieval:
    """Queries, a gallery, and who finds what.

    Args:
        data: test samples are the queries.
        gallery: training samples that are searched; 0: each test sample among all others.
    """

    def __init__(self, data: Dataset, gallery: int) -> None:
        self.queries, self.truth = data.test_images, data.test_labels
        self.apart = gallery > 0
        self.gallery, self.gallery_truth = (
            gallery_of(data, gallery) if gallery else (self.queries, self.truth)
        )

    def relations(self, of_queries: Encoder, of_gallery: Encoder | None = None) -> Tensor:
        """(Q, G); with ``of_gallery`` the gallery is encoded by another encoder."""
        queries = of_queries(self.queries)
        relations = cross_relations(queries, (of_gallery or of_queries)(self.gallery))
        return relations if self.apart else relations.fill_diagonal_(-torch.inf)

    def scores(self, relations: Tensor) -> dict[str, float | None]:
        """Recall at 1 and 5 by relations (Q, G)."""
        return recall_at(relations, self.truth, self.gallery_truth)

    @property
    def grouped(self) -> tuple[Tensor, Tensor]:
        """The samples that are put into groups, and their classes."""
        if not self.apart:
            return self.queries[:MAX_GROUPED], self.truth[:MAX_GROUPED]
        samples = torch.cat([self.queries, self.gallery])
        truth = torch.cat([self.truth, self.gallery_truth])
        return samples[:MAX_GROUPED], truth[:MAX_GROUPED]


@lru_cache(maxsize=1)
def open_retrieval(name: str, root: str | None, gallery: int) -> Retrieval:
    """Queries and gallery of an experiment, opened once."""
    return Retrieval(open_data(name, root), gallery)


def retrieval_of(experiment: Experiment) -> Retrieval:
    """Queries and gallery of an experiment."""
    i = experiment.institutions
    return open_retrieval(i.data, i.root, i.gallery)


def teacher_encoders(
    experiment: Experiment, vaults: Path, cards: Sequence[Card]
) -> dict[str, Encoder]:
    """The teachers of these institutions, from their vaults."""
    count = experiment.institutions.count
    places = {institution_name(index, count): index for index in range(count)}

    def encoder(index: int) -> Encoder:
        vault = TrainedVault(simulated_assets(experiment, index), vaults / f"{index:04d}")
        teacher = vault.teacher
        return lambda images: teacher.ask(images, FEATURES)[Signal.FEATURES]

    return {card.name: encoder(places.get(card.name, at)) for at, card in enumerate(cards)}


def student_encoder(student: nn.Module) -> Encoder:
    """The student's outputs."""
    return lambda images: predict_logits(student, images)


def pixels(images: Tensor) -> Tensor:
    """The samples themselves, (N, C H W)."""
    return as_float(images).flatten(1)


def evaluate_embeddings(
    experiment: Experiment, vaults: Path, cards: Sequence[Card], student: nn.Module
) -> Evaluation:
    """Recall of student, ensemble, teachers and controls, and the groups that each sees."""
    retrieval, task = retrieval_of(experiment), task_of(cards)
    teachers, own = teacher_encoders(experiment, vaults, cards), student_encoder(student)
    found = {name: retrieval.relations(encoder) for name, encoder in teachers.items()}
    kept = _kept_gallery(experiment, teachers)

    def scores_of_model(model: nn.Module) -> dict[str, float | None]:
        return retrieval.scores(retrieval.relations(student_encoder(model), kept))

    rows = torch.cat(
        [nn.functional.normalize(encode(retrieval.queries)) for encode in teachers.values()], 1
    )
    outputs = own(retrieval.queries)
    controls = _controls(experiment, cards, teachers)
    return Evaluation(
        {**scores_of_model(student), **task.agreement(outputs, rows)},
        retrieval.scores(torch.stack(list(found.values())).mean(0)),
        {name: retrieval.scores(relations) for name, relations in found.items()},
        None,
        TestOutputs(outputs, rows, retrieval.truth),
        score_model=scores_of_model,
        relations={
            "controls": {
                name: retrieval.scores(retrieval.relations(encoder))
                for name, encoder in controls.items()
            },
            "groups": _groups(retrieval, teachers, {"student": own, "pixels": pixels}),
        },
    )


def recall_of_student(experiment: Experiment, student: nn.Module) -> dict[str, float | None]:
    """Recall at 1 of the student, both queries and gallery by its own encoding."""
    retrieval = retrieval_of(experiment)
    found = retrieval.scores(retrieval.relations(student_encoder(student)))
    return {"recall_at_1": found["recall_at_1"]}


def _kept_gallery(experiment: Experiment, teachers: Mapping[str, Encoder]) -> Encoder | None:
    """The one teacher, where the student learns its space: its gallery is kept."""
    method = make(experiment.method.name, experiment.method.arguments)
    if method.answers is Signal.FEATURES and len(teachers) == 1:
        return next(iter(teachers.values()))
    return None


def _controls(
    experiment: Experiment, cards: Sequence[Card], teachers: Mapping[str, Encoder]
) -> dict[str, Encoder]:
    width = task_of(cards).target_width // len(cards)
    fresh = build_network(
        experiment.student.model,
        width,
        cards[0].shape,
        experiment.seed + FRESH_SEED,
        imports=True,
    )
    controls: dict[str, Encoder] = {"pixels": pixels, "random encoder": student_encoder(fresh)}
    if len({card.classes for card in cards}) == 1 and len(cards) > 1:
        controls["mean of features"] = lambda images: torch.stack(
            [encode(images) for encode in teachers.values()]
        ).mean(0)
    return controls


def _groups(
    retrieval: Retrieval, teachers: Mapping[str, Encoder], beside: Mapping[str, Encoder]
) -> dict[str, Any]:
    """What `relation_guided` finds of the mean relation, of each institution, and of others."""
    samples, truth = retrieval.grouped
    own = {name: cosine_relations(encode(samples)) for name, encode in teachers.items()}
    others = {name: cosine_relations(encode(samples)) for name, encode in beside.items()}
    mean = torch.stack(list(own.values())).mean(0)
    return relation_guided(
        {"mean relation": mean, **own, **others}, len(set(truth.tolist())), truth
    )
