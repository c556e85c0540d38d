"""Fusion of numbers: the predictions of T institutions become one, by a mean or a median.

Predictions are shares of the stated range, in [0, 1]. Institutions may predict different numbers;
each number is fused over those who predict it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.protocol import Answers, Card, LabelSpaces, Signal

TRIMMED = 0.25
"""Share of the predictions that a trimmed mean leaves out at each end, at least one of three."""
NEAR = 0.1
"""Difference from the median, as a share of the range, up to which a prediction counts fully."""


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over those who predict a number. (K, B)."""
    there = (~values.isnan()) * weights  # (T, K, B)
    return (values.nan_to_num() * there).sum(0) / there.sum(0)


def median(values: Tensor, weights: Tensor) -> Tensor:
    """Median; of an even number the mean of the two in the middle. (K, B)."""
    del weights
    return values.nanquantile(0.5, 0)


def trimmed_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean without the largest and the smallest, a quarter at each end; of one or two: mean."""
    del weights
    ordered = values.sort(0).values  # NaN comes last
    count = (~values.isnan()).sum(0)
    cut = torch.where(count >= 3, (TRIMMED * count).long().clamp(min=1), 0)
    place = torch.arange(len(values)).view(-1, *[1] * (values.dim() - 1))
    kept = (place >= cut) & (place < count - cut)
    return torch.where(kept, ordered.nan_to_num(), 0.0).sum(0) / kept.sum(0)


def huber(values: Tensor, weights: Tensor) -> Tensor:
    """Median, and the mean of what predictions differ from it, of each `NEAR` at most. (K, B).

    One step of Huber's M-estimate of location from the median: the mean where institutions agree
    within `NEAR`, and one of T moves it by `NEAR` / T beside what it moves the median.
    """
    middle = median(values, weights)
    there = ~values.isnan()
    apart = (values - middle).clamp(-NEAR, NEAR)
    return middle + torch.where(there, apart, 0.0).sum(0) / there.sum(0)


NumberRule = Callable[[Tensor, Tensor], Tensor]
"""(T, K, B) values in [0, 1], NaN where one does not predict the number, (T, K, 1) weights."""
NUMBER_RULES: dict[str, NumberRule] = {
    "mean": weighted_mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "huber": huber,
    "inverse_error": weighted_mean,
}
"""``inverse_error`` weighs by 1 / error^2, of errors that owners have told."""
DEFAULT_RULE = "huber"
UNKNOWN = 0.5
"""A number that nobody predicted: the middle of its range."""


@dataclass(frozen=True)
class NumberFusion:
    """A rule and what it knows of each institution; see `fedkd.core.source_types.Fusion`."""

    rule: str
    labels: LabelSpaces
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of its own numbers by institution; empty: all alike."""
    trusted: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)
    """Whose predictions of which of its own numbers are fused; empty: all."""

    def __call__(self, signals: Mapping[str, Mapping[Signal, Tensor]]) -> dict[Signal, Tensor]:
        """Fuse predictions (B, K_i) by institution into (B, K); other signals are left out.

        A number that nobody predicted is `UNKNOWN`.
        """
        names = sorted(signals)
        own = {name: self._trusted_values(name, signals[name][Signal.LOGITS]) for name in names}
        spread = [self.labels.to_union(name, value, torch.nan) for name, value in own.items()]
        values = torch.stack(spread).transpose(1, 2)  # (T, K, B)
        weights = [
            self.labels.to_union(n, torch.tensor([self.weights.get(n, (1.0,) * v.shape[1])]), 0.0)
            for n, v in own.items()
        ]
        weight = torch.cat(weights).to(values)[..., None]
        return {Signal.LOGITS: NUMBER_RULES[self.rule](values, weight).T.nan_to_num(UNKNOWN)}

    def _trusted_values(self, name: str, values: Tensor) -> Tensor:
        """Predictions (B, K_i) in [0, 1], NaN where they are left out."""
        values = values.float().clamp(0.0, 1.0)
        trusted = self.trusted.get(name)
        if trusted is None:
            return values
        return values.masked_fill(~torch.tensor(trusted, device=values.device), torch.nan)

    def of(self, answers: Answers) -> dict[Signal, Tensor]:
        """`__call__` on replies."""
        return self({name: reply.signals for name, reply in answers.items()})


def build_number_fusion(rule: str, cards: Sequence[Card]) -> NumberFusion:
    """The fusion of these institutions by this rule; ``auto`` is ``huber``.

    Raises:
        SettingsError: an unknown rule, or one that needs errors which somebody keeps.
    """
    rule = DEFAULT_RULE if rule == "auto" else rule
    if rule not in NUMBER_RULES:
        raise SettingsError(
            f"unknown rule {rule!r} for numbers; choose auto or one of {', '.join(NUMBER_RULES)}"
        )
    labels = LabelSpaces.of(cards)
    if rule != "inverse_error":
        return NumberFusion(rule, labels)
    silent = [card.name for card in cards if any(n.error is None for n in card.numbers)]
    if silent:
        raise SettingsError(
            f"inverse_error needs the error of every number, which {silent[0]} does not tell; "
            "choose another rule, or ask the owner to tell it"
        )
    weights = {
        card.name: tuple(((n.high - n.low) / (n.error or 1.0)) ** 2 for n in card.numbers)
        for card in cards
    }
    return NumberFusion(rule, labels, weights)
