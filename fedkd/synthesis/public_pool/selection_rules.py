"""Selection rules: which of the coordinator's unlabelled samples are asked about next.

A rule reads what costs no question: the student's answers to all candidates, and what institutions
answered to other samples of the pool.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.student.class_thresholds import class_thresholds, threshold_ratios

ITERATIONS = 10
"""Steps of k-means."""
PROTOTYPES = 3
"""Most prototypes of one class."""


@dataclass(frozen=True, eq=False)
class PoolView:
    """Candidates as the student sees them, and what was answered so far; in ordinary memory."""

    probabilities: Tensor
    """(N, K), the student's for each candidate."""
    features: Tensor
    """(N, D), the student's of each candidate: the input of its last layer."""
    answered_features: Tensor
    """(M, D), the student's of each answered sample."""
    answers: Tensor
    """(M, K), fused probabilities of each answered sample."""
    disagreement: Tensor
    """(M,) >= 0, of the institutions about each answered sample, see `disagreement_of`."""


SelectionRule: TypeAlias = Callable[[PoolView, int, torch.Generator], Tensor]
"""(candidates, B, random numbers) -> places of B candidates or of all, (B,), best first."""


def random_choice(view: PoolView, count: int, rng: torch.Generator) -> Tensor:
    """Any of them: distillation on public samples as they come."""
    return torch.randperm(len(view.probabilities), generator=rng)[:count]


def confident_by_class(view: PoolView, count: int, rng: torch.Generator) -> Tensor:
    """Candidates whose confidence is highest above the threshold of their class.

    ``max_c p_c / t_c`` with t of `fedkd.student.class_thresholds`, over the student's predictions.
    """
    return _by_threshold(view).argsort(descending=True, stable=True)[:count]


def least_confident_by_class(view: PoolView, count: int, rng: torch.Generator) -> Tensor:
    """The reverse of `confident_by_class`: a control."""
    return _by_threshold(view).argsort(stable=True)[:count]


def near_prototypes(view: PoolView, count: int, rng: torch.Generator) -> Tensor:
    """Candidates with the highest ``confidence - outlier - density``, each scaled to [0, 1].

    confidence  max_c p_c(x), the student's
    outlier     sum_j w_j(x) d_j, w = softmax_j(-|f(x) - m_j|^2 / s^2): the disagreement of
                institutions that is expected of x; m_j is a prototype, d_j the mean disagreement
                about its members, s^2 the mean squared distance of candidates to their nearest
    density     share of the answered samples that are of the class of the nearest prototype
    """
    prototypes = prototypes_of(view.answered_features, view.answers, view.disagreement)
    squared = torch.cdist(view.features, prototypes.centres).square()  # (N, P)
    nearest = squared.min(1)
    scale = nearest.values.mean().clamp_min(torch.finfo(squared.dtype).tiny)
    outlier = (-squared / scale).softmax(1) @ prototypes.disagreement
    numbers = view.answers.argmax(1).bincount(minlength=view.answers.shape[1])
    density = numbers[prototypes.classes[nearest.indices]].to(squared.dtype)
    confidence = view.probabilities.max(1).values
    score = scaled(confidence) - scaled(outlier) - scaled(density)
    return score.argsort(descending=True, stable=True)[:count]


SELECTION_RULES: Mapping[str, SelectionRule] = {
    "prototypes": near_prototypes,
    "threshold": confident_by_class,
    "threshold_reversed": least_confident_by_class,
    "random": random_choice,
}


def rule_named(name: str) -> SelectionRule:
    """The selection rule of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in SELECTION_RULES:
        raise SettingsError(
            f"unknown selection rule {name!r}; choose one of {', '.join(SELECTION_RULES)}"
        )
    return SELECTION_RULES[name]


@dataclass(frozen=True, eq=False)
class Prototypes:
    """Cluster centres of answered samples, class by class."""

    centres: Tensor
    """(P, D)."""
    classes: Tensor
    """(P,), the class that was answered to all members."""
    disagreement: Tensor
    """(P,), mean over the members."""


def prototypes_of(features: Tensor, answers: Tensor, disagreement: Tensor) -> Prototypes:
    """k-means of the features (M, D) of the samples to which one class was answered, for each.

    Args:
        features: M > 0.
        answers: (M, K) probabilities.
        disagreement: (M,).
    """
    named = answers.argmax(1)
    centres, classes, means = [], [], []
    for label in sorted(set(named.tolist())):
        of_class = (named == label).nonzero().flatten()
        found, cluster = k_means(features[of_class], PROTOTYPES)
        for number, centre in enumerate(found):
            centres.append(centre)
            classes.append(label)
            means.append(disagreement[of_class[cluster == number]].mean())
    return Prototypes(torch.stack(centres), torch.tensor(classes), torch.stack(means))


def k_means(points: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """At most ``most`` cluster centres (P, D) of ``points`` (M, D), and each one's cluster (M,).

    It begins with points that are far from one another, so that it depends on nothing random. No
    cluster is empty.
    """
    first = int((points - points.mean(0)).square().sum(1).argmax())
    picked = [first]
    while len(picked) < min(most, len(points)):
        gap, place = torch.cdist(points, points[picked]).min(1).values.max(0)
        if not float(gap) > 0:
            break
        picked.append(int(place))
    centres = points[picked]
    cluster = torch.cdist(points, centres).argmin(1)
    for _ in range(ITERATIONS):
        sums = torch.zeros_like(centres).index_add_(0, cluster, points)
        numbers = cluster.bincount(minlength=len(centres))
        filled = numbers > 0
        centres = sums[filled] / numbers[filled, None]
        cluster = torch.cdist(points, centres).argmin(1)
    filled = cluster.bincount(minlength=len(centres)) > 0
    return centres[filled], (filled.cumsum(0) - 1)[cluster]


def scaled(values: Tensor) -> Tensor:
    """``values`` (N,) from 0, the least, to 1, the greatest; all 0 where they are equal."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if float(high - low) > 0 else torch.zeros_like(values)


def disagreement_of(probabilities: Tensor) -> Tensor:
    """How far institutions disagree about each sample: mutual information, in nats. (B,).

    ``H(mean_t p_t) - mean_t H(p_t)``, which is high where each is sure of something else. One
    institution alone agrees with itself; then it is the entropy of its answer.

    Args:
        probabilities: (T, B, K); a class that an institution does not know has 0.
    """

    def entropy(p: Tensor) -> Tensor:
        each: Tensor = torch.special.entr(p).sum(-1)
        return each

    if len(probabilities) == 1:
        return entropy(probabilities[0])
    return (entropy(probabilities.mean(0)) - entropy(probabilities).mean(0)).clamp_min(0.0)


def _by_threshold(view: PoolView) -> Tensor:
    """Confidence over threshold of each candidate, (N,)."""
    counts = view.probabilities.argmax(1).bincount(minlength=view.probabilities.shape[1])
    return threshold_ratios(view.probabilities, class_thresholds(counts))
