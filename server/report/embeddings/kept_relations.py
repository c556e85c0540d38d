"""Relations that a run leaves for its page: the student's beside the institutions' mean."""

import torch
from torch import Tensor

from fedkd.evaluation import predict_logits
from fedkd.protocol import cosine_relations
from fedkd.server.report.records.run_folder import PREDICTIONS, RunFolder
from fedkd.server.report.records.sample_history import SampleHistory
from fedkd.server.report.tables.predictions import TestOutputs

KEPT_GALLERY = "gallery_embeddings.npz"
PUBLIC = "public"
"""Origin of public samples."""
MAX_SAMPLES = 180
"""Samples of which relations are kept."""


def keep_relations(
    folder: RunFolder, history: SampleHistory | None, test: TestOutputs | None
) -> None:
    """Write relations of student and ensemble, sorted by class, or by group where none is known.

    Without test data they are of the last question: only its rows may be compared.
    """
    if test is not None:
        picked = torch.linspace(0, len(test.truth) - 1, min(MAX_SAMPLES, len(test.truth))).long()
        picked = picked[test.truth[picked].argsort(stable=True)]
        student, ensemble = test.student[picked], test.ensemble[picked]
        groups = test.truth[picked]
    elif history is not None:
        last = torch.from_numpy(history.asked_at == history.asked_at.max()).nonzero()[:, 0]
        picked = last[:MAX_SAMPLES]
        picked = picked[_order(history.targets[picked])]
        student = predict_logits(history.student, history.images[picked])
        ensemble, groups = history.targets[picked].cpu(), torch.zeros(len(picked)).long()
    else:
        return
    relations = {
        name: cosine_relations(each.float()).half().numpy()
        for name, each in (("student", student), ("ensemble", ensemble))
    }
    folder.write_arrays(PREDICTIONS, {**relations, "groups": groups.numpy()})


def keep_gallery_embeddings(folder: RunFolder, history: SampleHistory) -> None:
    """Write the public samples that were asked about, and their embeddings: the kept gallery.

    Only where targets are features of one space.
    """
    public = torch.from_numpy(history.origin == PUBLIC).nonzero()[:, 0]
    if len(public):
        arrays = {"images": history.images[public], "embeddings": history.targets[public].cpu()}
        folder.write_arrays(KEPT_GALLERY, {name: own.numpy() for name, own in arrays.items()})


def _order(rows: Tensor) -> Tensor:
    """Samples by their place on the second direction of their relations, which parts them."""
    _, vectors = torch.linalg.eigh(cosine_relations(rows.double()))
    order: Tensor = vectors[:, -min(2, len(rows))].argsort()
    return order
