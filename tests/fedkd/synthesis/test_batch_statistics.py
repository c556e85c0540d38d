"""Sources that read the student: by the statistics of each batch, where the run goes by those."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.batch_norm import batch_norm_layers
from fedkd.core.device import CPU, Compute
from fedkd.core.interfaces import Context, Spec
from fedkd.core.schedules import FULL
from fedkd.core.source_types import Turn
from fedkd.models import build_network
from fedkd.procedural import build_priors
from fedkd.student.primer_student import Primer
from fedkd.synthesis import (
    CandidateSelection,
    ContrastiveSamples,
    Evolution,
    GenerativeReplay,
    InstanceDiscriminator,
    PriorParameterBandit,
    ProceduralPriors,
    PublicSamples,
    rule_named,
)
from tests.support.contexts import answered_with, context_of

SHAPE, K = (1, 8, 8), 4
BY_BATCH = Compute(batch_statistics=True)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def student(shifted: bool) -> nn.Module:
    """The same weights; ``shifted`` running statistics lead to other decisions."""
    network = build_network("cnn", K, SHAPE, 0).eval()
    for layer in batch_norm_layers(network) if shifted else ():
        assert layer.running_mean is not None
        layer.running_mean.normal_(0, 2, generator=rng(7))
    return network


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=rng(seed))


def bank() -> Bank:
    full = Bank()
    full.add(images(64), 3 * torch.randn(64, K, generator=rng(2)))
    return full


PRIORS = ProceduralPriors()
PRIMER = Primer(0.0, 1.0, FULL)
SPECS: dict[str, Spec[Any]] = {
    "evolution": Evolution(PRIORS),
    "candidates": CandidateSelection(PRIORS, 8),
    "bandit": PriorParameterBandit(sharpness=0.01),
    "public": PublicSamples(1, rule_named("threshold"), 32),
    "replay": GenerativeReplay(
        4, steps=2, rate=1e-2, latent_rate=0.5, balance_weight=5.0, prior_weight=1e-2
    ),
    "contrast": ContrastiveSamples(PRIMER, steps=3, rate=0.1),
}


def proposed(spec: Spec[Any], shifted: bool, compute: Compute) -> Tensor:
    """Images of eight proposals, each answered in between."""
    context: Context = context_of(
        *(student(shifted), SHAPE, K),
        compute=compute,
        bank=bank(),
        public=images(64, seed=3),
        priors=build_priors("pink", "levels"),
    )
    source, found = context.part(spec), list[Tensor]()
    for turn in range(8):
        proposal = source.propose(Turn(8, rng(turn), 0.0))
        assert proposal is not None
        found.append(proposal.images.float())
        for _ in source.learn(answered_with(proposal, torch.eye(K).repeat(2, 1) * 5)) or ():
            raise AssertionError("a follow-up was asked")
    return torch.cat(found)


@pytest.mark.parametrize("name", SPECS)
def test_running_statistics_change_nothing_where_a_run_goes_by_those_of_its_batches(
    name: str,
) -> None:
    plain, shifted = (proposed(SPECS[name], moved, BY_BATCH) for moved in (False, True))
    assert torch.equal(plain, shifted)
    plain, shifted = (proposed(SPECS[name], moved, CPU) for moved in (False, True))
    assert not torch.equal(plain, shifted)


def told_apart(shifted: bool, compute: Compute) -> Tensor:
    settings = InstanceDiscriminator(
        temperature=0.3, negatives=5, capacity=12, width=6, rate=0.01, crop=0.25
    )
    found = context_of(student(shifted), SHAPE, K, compute=compute).part(settings)
    return found.loss(images(8).float() / 255, rng())


def test_images_are_told_apart_likewise() -> None:
    assert torch.equal(told_apart(False, BY_BATCH), told_apart(True, BY_BATCH))
    assert not torch.equal(told_apart(False, CPU), told_apart(True, CPU))


def primed(shifted: bool, compute: Compute) -> Tensor:
    part = context_of(student(shifted), SHAPE, K, compute=compute, bank=bank()).part(PRIMER)
    part._taught = True
    term = part.term(images(8), torch.zeros(8, K), 0.5)
    assert term is not None
    return term


def test_a_primer_says_what_it_does_by_the_batch() -> None:
    assert torch.equal(primed(False, BY_BATCH), primed(True, BY_BATCH))
    assert not torch.equal(primed(False, CPU), primed(True, CPU))
