"""Public samples as a source: asked about first, once each, and known by what was answered."""

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.source_types import Turn
from fedkd.errors import SettingsError
from fedkd.synthesis import PublicSamples
from fedkd.synthesis.public_pool import PublicPool
from tests.support.contexts import answered_with, context_of

SHAPE, K = (1, 8, 8), 3
IMAGES = torch.arange(5 * 64).remainder(251).to(torch.uint8).view(5, *SHAPE)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pool(
    public: Tensor | None, bank: Bank, shape: tuple[int, int, int] = SHAPE, times: int = 1
) -> PublicPool:
    context = context_of(nn.Identity(), shape, K, public=public, bank=bank)
    return context.part(PublicSamples(times))


def test_they_are_asked_about_once_each_and_known_by_what_was_answered() -> None:
    bank, twice = Bank(), torch.cat([IMAGES, IMAGES])
    own = pool(twice, bank).images
    assert len(own) == 5
    bank.add(own[:1], torch.zeros(1, K))
    public, drawn = pool(twice, bank, times=10), []
    while public.urgent:
        proposal = public.propose(Turn(3, rng(0), 0.0))
        assert proposal is not None
        assert (proposal.origin, proposal.times) == ("public", 10)
        logits = proposal.images[:, 0, 0, :K].float()
        bank.add(proposal.images, logits)
        assert public.learn(answered_with(proposal, logits)) is None
        drawn.append(proposal.images)
    assert [len(batch) for batch in drawn] == [3, 1]
    assert torch.equal(torch.cat(drawn), own[1:])
    seen, logits = public.known(50, rng(1))
    assert torch.equal(logits, seen[:, 0, 0, :K].float())
    assert len(torch.unique(seen, dim=0)) == 4
    again = pool(twice, bank)
    with pytest.raises(SettingsError, match="no public sample was answered"):
        again.known(1, rng(1))
    again.restore(public.state())
    assert torch.equal(again.known(50, rng(1))[0], seen)
    assert torch.equal(again.known(50, rng(1))[1], logits)


def test_who_cannot_be_without_them_or_reads_others_is_told() -> None:
    with pytest.raises(SettingsError, match=r"needs public samples of yours; see images\.public"):
        pool(None, Bank())
    with pytest.raises(SettingsError, match=r"\(5, 1, 8, 8\), expected uint8 \(N, 3, 8, 8\)"):
        pool(IMAGES, Bank(), (3, 8, 8))
    with pytest.raises(SettingsError, match=r"torch\.float32 .* expected uint8"):
        pool(IMAGES.float(), Bank())
    with pytest.raises(SettingsError, match=r"\(0, 1, 8, 8\), .* N > 0"):
        pool(IMAGES[:0], Bank())


def test_its_needs_are_said_before_it_is_built() -> None:
    assert PublicSamples().needs.public_data
    with pytest.raises(SettingsError, match="public samples count 0 times; expected >= 1"):
        PublicSamples(0)
