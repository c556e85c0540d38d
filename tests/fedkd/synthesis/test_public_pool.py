"""Public samples as a source: asked about first, once each, and known by what was answered."""

import pytest
import torch
from torch import Tensor, nn

from fedkd.core.bank import Bank
from fedkd.core.public_data import PublicData
from fedkd.core.run_plan import Plan
from fedkd.core.source_types import Turn
from fedkd.errors import SettingsError
from fedkd.synthesis import PublicSamples, rule_named
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


class Sees(nn.Module):
    """A student that is sure of bright samples: logits from the mean of the pixels."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.mean((1, 2, 3))
        return torch.stack([8 * bright, torch.zeros_like(bright), torch.zeros_like(bright)], 1)


def many(count: int) -> Tensor:
    return torch.randint(0, 256, (count, *SHAPE), generator=rng(3), dtype=torch.uint8)


def chosen_by(spec: PublicSamples, public: PublicData | Tensor, plan: Plan) -> PublicPool:
    return context_of(Sees(), SHAPE, K, public=public, bank=Bank(), plan=plan).part(spec)


def asked(pool: PublicPool, seed: int = 0, batch: int = 8) -> list[Tensor]:
    """Every batch until none is urgent, each answered."""
    drawn, random = [], rng(seed)
    while pool.urgent:
        proposal = pool.propose(Turn(batch, random, 0.0))
        assert proposal is not None
        pool._context.bank.add(proposal.images, proposal.images[:, 0, 0, :K].float())
        pool.learn(answered_with(proposal, proposal.images[:, 0, 0, :K].float() / 50))
        drawn.append(proposal.images)
    return drawn


def test_a_random_share_is_asked_first_and_the_rest_in_rounds() -> None:
    spec, public = PublicSamples(rule=rule_named("threshold"), most=40), many(100)
    batches = asked(chosen_by(spec, public, Plan(60)))
    assert [len(batch) for batch in batches] == [4] + [2] * 18
    assert len(torch.unique(torch.cat(batches), dim=0)) == 40
    later = torch.cat(batches[1:]).float().mean()
    assert later > torch.cat(batches[:1]).float().mean()
    reverse = PublicSamples(rule=rule_named("threshold_reversed"), most=40)
    worst = asked(chosen_by(reverse, public, Plan(60)))
    assert torch.equal(worst[0], batches[0])
    assert torch.cat(worst[1:]).float().mean() < later


def test_the_whole_budget_is_chosen_unless_told_otherwise() -> None:
    plan = Plan(30)
    public = PublicSamples(rule=rule_named("random"))
    assert sum(map(len, asked(chosen_by(public, many(50), plan)))) == 30
    with pytest.raises(SettingsError, match=r"30 public .* has 20 that differ; bring more, or"):
        chosen_by(public, many(20), plan)
    for wrong in ({"first_share": 0.0}, {"round_share": 1.5}, {"most": 0}):
        with pytest.raises(SettingsError, match="shares in"):
            PublicSamples(**wrong)  # type: ignore[arg-type]


def test_a_pool_goes_on_from_its_state_in_the_middle_of_a_round() -> None:
    spec = PublicSamples(rule=rule_named("prototypes"), most=40, round_share=0.5)
    whole, half = (chosen_by(spec, many(100), Plan(60)) for _ in range(2))
    random = rng(1)
    for _ in range(3):
        assert whole.urgent
        proposal = whole.propose(Turn(5, random, 0.0))
        assert proposal is not None
        whole._context.bank.add(proposal.images, torch.zeros(len(proposal.images), K))
        half._context.bank.add(proposal.images, torch.zeros(len(proposal.images), K))
        whole.learn(answered_with(proposal, proposal.images[:, 0, 0, :K].float()))
    half.restore(whole.state())
    state = random.get_state()
    rest = asked(whole, 7)
    random.set_state(state)
    assert [len(batch) for batch in rest] == [len(batch) for batch in asked(half, 7)]
    assert torch.equal(whole.state().tensors["known"], half.state().tensors["known"])
    assert torch.equal(whole.state().tensors["disagreement"], half.state().tensors["disagreement"])


def test_the_record_says_of_which_data_set_the_chosen_are() -> None:
    bright, dark = many(30).clamp(150, 255), many(30).clamp(0, 100)
    public = PublicData.joined({"bright": bright, "dark": dark})
    pool = chosen_by(PublicSamples(rule=rule_named("random"), most=20), public, Plan(20))
    asked(pool)
    counts = pool.facts["public"]
    assert sum(counts.values()) == 20
    known = pool.images[pool.state().tensors["known"]]
    assert counts["bright"] == int((known.flatten(1).amin(1) >= 150).sum())
    lone = chosen_by(PublicSamples(), many(5), Plan(20))
    assert lone.facts == {}


def test_a_sample_of_two_data_sets_counts_for_the_first() -> None:
    public = PublicData.joined({"a": IMAGES[:3], "b": IMAGES[1:]}).distinct(SHAPE)
    assert len(public.images) == 5
    assert public.counts(torch.arange(5)) == {"a": 3, "b": 2}
