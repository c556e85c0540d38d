"""A teacher whose outputs are an embedding answers features and relations, never logits."""

import pytest
import torch

from fedkd.errors import NeedsError
from fedkd.models import EmbeddingTeacher, ModuleTeacher, build_network
from fedkd.protocol import Signal, cosine_relations

FEATURES, RELATIONS, LOGITS = Signal.FEATURES, Signal.RELATIONS, Signal.LOGITS
IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NETWORK = build_network("cnn-groupnorm", 5, (1, 8, 8), 0).eval()
TEACHER = EmbeddingTeacher(ModuleTeacher(NETWORK, 5))


def test_features_are_its_outputs() -> None:
    found = TEACHER.ask(IMAGES, frozenset({FEATURES, RELATIONS}))
    with torch.no_grad():
        outputs = NETWORK(IMAGES)
    torch.testing.assert_close(found[FEATURES], outputs)
    torch.testing.assert_close(found[RELATIONS], cosine_relations(outputs))
    assert TEACHER.signals == {FEATURES, RELATIONS}
    with pytest.raises(NeedsError, match="logits"):
        TEACHER.ask(IMAGES, frozenset({LOGITS}))


def test_pulling_back_is_what_autograd_says() -> None:
    rng = torch.Generator().manual_seed(1)
    cotangents = {
        FEATURES: torch.randn(6, 5, generator=rng),
        RELATIONS: torch.randn(6, 6, generator=rng),
    }
    leaf = IMAGES.clone().requires_grad_()
    outputs = NETWORK(leaf)
    total = (cotangents[FEATURES] * outputs).sum()
    total = total + (cotangents[RELATIONS] * cosine_relations(outputs)).sum()
    (expected,) = torch.autograd.grad(total, leaf)
    pulled = TEACHER.pull_back(IMAGES, cotangents)
    torch.testing.assert_close(pulled, expected, rtol=1e-4, atol=1e-6)
