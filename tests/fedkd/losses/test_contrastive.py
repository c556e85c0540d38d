"""Contrastive losses against their formulas."""

import math

import pytest
import torch

from fedkd.losses import Batch, contrastive_loss, instance_discrimination


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_the_contrastive_loss_is_that_of_dip_kd() -> None:
    here, there = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    h, t, total = here.tolist(), there.tolist(), 0.0
    for i in range(5):
        others = sum(math.exp(cosine(h[i], h[j])) for j in range(5) if j != i)
        total -= math.log(math.exp(cosine(h[i], t[i])) / others)
    assert float(contrastive_loss(here, there)) == pytest.approx(total / 5)


def test_instance_discrimination_is_what_its_discriminator_reads_and_asks_nobody() -> None:
    discriminator, read = object(), torch.tensor(0.5)
    term = instance_discrimination(discriminator)
    logits = torch.zeros(2, 4)
    batch = Batch(torch.zeros(2, 1, 2, 2), {}, logits, readings={id(discriminator): read})
    assert term.value(batch) is read
    assert (term.needs, term.reads) == (frozenset(), (discriminator,))
