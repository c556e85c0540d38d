"""Public samples as a source: the coordinator's own, asked about first, once each.

They are nobody's secret: none of them is an institution's. Without a selection rule all are asked
about. With one a random share is asked first. The student then judges the others, which costs no
question, and the rule says in rounds which of them are asked about.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedkd.core.checkpoint_state import State
from fedkd.core.interfaces import BaseSource, Context
from fedkd.core.public_data import PublicData
from fedkd.core.source_types import AnsweredBatch, Cost, FollowUps, Needs, Proposal, Turn
from fedkd.errors import SettingsError
from fedkd.models import penultimate_features
from fedkd.protocol import Signal
from fedkd.synthesis.public_pool.selection_rules import (
    PoolView,
    SelectionRule,
    disagreement_of,
    random_choice,
)

CANDIDATES = 20_000
"""Most samples that are judged in a round, drawn at random of a larger pool."""
CHUNK = 2000
"""Samples in one pass through the student."""


@dataclass(frozen=True, eq=False)
class PublicSamples:
    """The settings.

    Attributes:
        times: as how many samples each is drawn from the bank, >= 1.
        rule: which are asked about, see `fedkd.synthesis.public_pool.selection_rules`; None: all.
        most: samples asked about under the rule, >= 1; None: the whole budget of the run.
        first_share: of these, that is drawn at random and asked first, in (0, 1].
        round_share: of these, after which the others are judged anew, in (0, 1].
    """

    times: int = 1
    rule: SelectionRule | None = None
    most: int | None = None
    first_share: float = 0.1
    round_share: float = 0.05
    needs: ClassVar[Needs] = Needs(public_data=True)
    cost: ClassVar[Cost] = Cost()

    def __post_init__(self) -> None:
        if self.times < 1:
            raise SettingsError(f"public samples count {self.times} times; expected >= 1")
        shares = (self.first_share, self.round_share)
        none = self.most is not None and self.most < 1
        if none or not all(0 < share <= 1 for share in shares):
            raise SettingsError(
                f"public samples: {self.most} of them, a share {self.first_share} first, rounds of "
                f"{self.round_share}; expected >= 1 and shares in (0, 1]"
            )

    def build(self, context: Context) -> "PublicPool":
        """The source.

        Raises:
            SettingsError: there are none, fewer than are to be asked, or teachers read others.
        """
        if context.public is None:
            raise SettingsError("this method needs public samples of yours; see images.public")
        public = context.public.distinct(context.shape)
        most = self.most or context.plan.budget
        if self.rule is not None and most > len(public.images):
            raise SettingsError(
                f"{most:,} public samples are to be chosen and images.public has "
                f"{len(public.images):,} that differ; bring more, or lower questions.budget"
            )
        return PublicPool(public, context, self)


class PublicPool(BaseSource):
    """The coordinator's own samples, and what was answered to each.

    Args:
        public: no two samples alike.
        context: whose student judges; whatever is in its bank already was asked about.
        settings: how many are asked about, and which.
    """

    def __init__(self, public: PublicData, context: Context, settings: PublicSamples) -> None:
        self.public, self.settings, self._context = public, settings, context
        self._most = len(public.images)
        if settings.rule is not None:
            self._most = settings.most or context.plan.budget
        self._left = torch.arange(len(public.images))
        self._drawn = self._known = self._chosen = self._left[:0]
        self._logits = torch.empty(0, 0)
        self._disagreement = torch.empty(0)

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) uint8."""
        return self.public.images

    @property
    def urgent(self) -> bool:
        """Whether another one is to be asked about."""
        self._left = self._left[self._context.bank.fresh(self.images[self._left])]
        return bool(len(self._left)) and len(self._known) < self._most

    @property
    def facts(self) -> Mapping[str, Any]:
        """How many of each data set were asked about, and are there, where there are several."""
        if len(self.public.names) < 2:
            return {}
        everything = torch.arange(len(self.images))
        return {
            "public": self.public.counts(self._known),
            "public_pool": self.public.counts(everything),
        }

    def propose(self, turn: Turn) -> Proposal | None:
        """The next ones; only while some are left."""
        if self.settings.rule is None:
            self._drawn = self._left[: turn.count]
        else:
            self._chosen = self._chosen[torch.isin(self._chosen, self._left)]
            if not len(self._chosen):
                self._chosen = self._choose(self.settings.rule, turn.rng)
            self._drawn = self._chosen[: turn.count]
            self._chosen = self._chosen[turn.count :]
        if not len(self._drawn):
            return None
        return Proposal(self.images[self._drawn], "public", times=self.settings.times)

    def learn(self, answered: AnsweredBatch) -> FollowUps | None:
        """Keep what was answered to each."""
        target = answered.target
        self._logits = torch.cat([self._logits.reshape(-1, target.shape[1]), target])
        self._known = torch.cat([self._known, self._drawn])
        disagreement = disagreement_of(_probabilities(answered))
        self._disagreement = torch.cat([self._disagreement, disagreement])
        return None

    def known(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """``count`` that were asked about, with replacement: (B, C, H, W) uint8 and (B, K) logits.

        Raises:
            SettingsError: none was.
        """
        if not len(self._known):
            raise SettingsError("no public sample was answered; bring some that nobody has")
        index = torch.randint(len(self._known), (count,), generator=rng)
        return self.images[self._known[index]], self._logits[index]

    def state(self) -> State:
        """What was answered to which, and what is asked next."""
        tensors = {"known": self._known, "logits": self._logits}
        if self.settings.rule is not None:
            tensors |= {"disagreement": self._disagreement, "chosen": self._chosen}
        return State({name: tensor.clone() for name, tensor in tensors.items()})

    def restore(self, state: State) -> None:
        """Know again what was known when ``state`` was taken of the same images."""
        self._known = state.tensors["known"].clone()
        self._logits = state.tensors["logits"].clone()
        if self.settings.rule is not None:
            self._disagreement = state.tensors["disagreement"].clone()
            self._chosen = state.tensors["chosen"].clone()

    def _choose(self, rule: SelectionRule, rng: torch.Generator) -> Tensor:
        """The samples of the next round, (B,) places in the pool, best first."""
        settings, asked = self.settings, len(self._known)
        share = settings.round_share if asked else settings.first_share
        count = min(max(1, round(share * self._most)), self._most - asked)
        candidates = self._left[torch.randperm(len(self._left), generator=rng)[:CANDIDATES]]
        if not asked or rule is random_choice:
            return candidates[:count]
        features, probabilities = self._judged(candidates)
        answered_features, _ = self._judged(self._known)
        view = PoolView(
            probabilities,
            features,
            answered_features,
            self._logits.softmax(1),
            self._disagreement,
        )
        return candidates[rule(view, count, rng)]

    def _judged(self, which: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, D) and probabilities (N, K) of the student, in ordinary memory."""
        compute, student = self._context.compute, self._context.student
        features, probabilities = [], []
        with compute.evaluation(student), torch.no_grad():
            for places in torch.split(which, CHUNK):
                images = self.images[places]
                features.append(penultimate_features(student, compute.pixels(images)).float().cpu())
                probabilities.append(compute.logits(student, images).softmax(1).cpu())
        return torch.cat(features), torch.cat(probabilities)


def _probabilities(answered: AnsweredBatch) -> Tensor:
    """What each institution answered, (T, B, K): 0 for a class that it does not know."""
    return torch.stack(
        [
            answered.labels.to_union(name, reply.signals[Signal.LOGITS].float().softmax(1), 0.0)
            for name, reply in sorted(answered.answers.items())
        ]
    )
