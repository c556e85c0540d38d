"""Data impressions: what is estimated of classes from answers, and what is drawn around it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from fedkd.errors import SettingsError
from fedkd.loop import Distillation, Plan, drive
from fedkd.methods import make
from fedkd.models import InProcess, Network
from fedkd.procedural import build_priors
from fedkd.protocol import Answers, Request
from fedkd.synthesis import DataImpressions, TrainedSource
from fedkd.synthesis.data_impressions import ClassSimilarity, ImpressedPixels
from tests.support.contexts import context_of

K = 4


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_similarity_is_the_mean_softened_answer_stretched_in_each_row() -> None:
    similarity = ClassSimilarity(DataImpressions(temperature=5.0, first=2), K)
    logits = 4 * torch.randn(8, K, generator=rng(0))
    classes = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    similarity.hear(classes[:4], logits[:4])
    assert not similarity.known
    similarity.hear(classes[4:], logits[4:])
    assert similarity.known
    softened = np.exp(logits.numpy() / 5.0)
    softened /= softened.sum(1, keepdims=True)
    for c in range(K):
        mean = (softened[c] + softened[c + 4]) / 2
        row = (mean - mean.min()) / (mean.max() - mean.min())
        assert similarity.matrix[c].tolist() == pytest.approx(row.tolist(), abs=1e-5)
    again = ClassSimilarity(DataImpressions(temperature=5.0, first=2), K)
    again.restore(similarity.state())
    assert torch.equal(again.matrix, similarity.matrix)


def test_answers_to_templates_give_the_cosines_of_the_papers_rows() -> None:
    """Where features lie along a row of the last layer, as the paper has it, C is the paper's."""
    w = torch.nn.functional.normalize(torch.randn(K, 12, generator=rng(1)), dim=1)
    similarity = ClassSimilarity(DataImpressions(temperature=200.0), K)
    similarity.hear(torch.arange(K), 10 * w @ w.T)
    cosine = w @ w.T
    low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
    assert torch.allclose(similarity.matrix, (cosine - low) / (high - low), atol=0.03)


def test_targets_are_drawn_around_similar_classes_by_scale() -> None:
    similarity = ClassSimilarity(DataImpressions(scales=(50.0, 0.1)), K)
    row = torch.tensor([9.0, 6.0, 3.0, 0.0])
    similarity.hear(torch.arange(K), torch.stack([row.roll(c) for c in range(K)]))
    drawn = similarity.draw(torch.zeros(4000, dtype=torch.long), rng(2))
    assert torch.allclose(drawn.sum(1), torch.ones(4000), atol=1e-5)
    expected = similarity.matrix[0] / similarity.matrix[0].sum()
    for half in (drawn[::2], drawn[1::2]):
        assert half.mean(0).tolist() == pytest.approx(expected.tolist(), abs=0.03)
    assert float(drawn[::2].max(1).values.mean()) < 0.7 < float(drawn[1::2].max(1).values.mean())
    assert torch.equal(
        similarity.draw(torch.arange(K), rng(3)), similarity.draw(torch.arange(K), rng(3))
    )


def test_a_run_makes_class_impressions_first_and_learns_which_classes_are_alike() -> None:
    """Classes 0 and 1 have nearly one row in the teachers; so have 2 and 3."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(16, 16, bias=False))
    head = nn.Linear(16, K)
    with torch.no_grad():
        body[1].weight.copy_(torch.eye(16))
        rows = torch.randn(2, 16, generator=rng(5)).repeat_interleave(2, 0)
        head.weight.copy_(3 * (rows + 0.3 * torch.randn(K, 16, generator=rng(6))))
    teacher = Network(body, head).eval()
    teachers = InProcess({"a": teacher, "b": teacher}, (1, 4, 4), K)
    method = make("zskd", {"steps_per_batch": 10, "generator_rate": 0.1, "temperature": 5.0})
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    run = Distillation(
        *(student, method, teachers.cards, Plan(320, 8, 8), build_priors("noise")), seed=1
    )
    source = run._scheduler.sources["generator"]
    assert isinstance(source, TrainedSource)
    target = source.target
    assert isinstance(target, ImpressedPixels)
    dimensions = []

    def put(request: Request) -> Answers:
        dimensions.append(target.class_targets.ndim)
        return teachers.answer(request)

    drive(run.requests(), put)
    assert dimensions[:20] == [1] * 20
    assert dimensions[20:] == [2] * (len(dimensions) - 20)
    assert len(dimensions) > 20
    alike = target.similarity.matrix
    for one, other in ((0, 1), (2, 3)):
        for stranger in {0, 1, 2, 3} - {one, other}:
            assert alike[one, other] > alike[one, stranger]
            assert alike[other, one] > alike[other, stranger]


def test_only_the_last_answer_to_a_whole_batch_tells_of_classes_and_is_set_back() -> None:
    settings = DataImpressions(temperature=5.0)
    context = context_of(nn.Identity(), (1, 4, 4), K, plan=Plan(64, 8))
    target, again = (ImpressedPixels(settings, context) for _ in range(2))
    target.begin(rng(0))
    classes = target.class_targets
    target.draw(8, rng(1), True)
    target.hear(torch.zeros(8, K))
    last = torch.randn(8, K, generator=rng(2))
    target.hear(last)
    target.hear(torch.full((5, K), 9.0))  # some were not new: the batch was not asked as a whole
    again.restore(target.state())
    expected = ClassSimilarity(settings, K)
    expected.hear(classes, last)
    for each in (target, again):
        each.begin(rng(3))
        assert torch.equal(each.similarity.matrix, expected.matrix)
        assert each.class_targets.shape == (8, K)
    assert torch.equal(target.class_targets, again.class_targets)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"scales": ()}, "expected scales > 0"),
        ({"scales": (1.0, 0.0)}, "expected scales > 0"),
        ({"temperature": math.inf}, "temperature inf, first 1; expected > 0 and >= 1"),
        ({"first": 0}, "first 0; expected > 0 and >= 1"),
        ({"steps": 0}, "0 steps per batch"),
    ],
)
def test_numbers_out_of_range_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        DataImpressions(**values)  # type: ignore[arg-type]
