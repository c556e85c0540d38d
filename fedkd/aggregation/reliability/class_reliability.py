"""Reliability of institutions, estimated from their answers alone: robust against false claims.

Nobody has a label. What there is: T institutions' answers to the same samples, and the class counts
that they claim. Three questions are put to the answers of each institution:

1. *Does it show the classes that it claims?* A teacher that never saw a class is sure of it on no
   sample. Counts of classes that it does not show are refuted, see `class_claims`. One that
   claims a single class can show nothing by a contrast, since an honest teacher of one class
   answers it whatever the sample; so this is what it has to do. Such answers tell nothing of a
   sample and only lift the class: they count no more than those of whoever else knows it most.
2. *Does it agree with the others where they know the same classes?* See `answer_agreement`: with
   all others fused; where enough peers share classes, with each peer besides, of which the weighted
   median counts, so that a few who collude cannot vouch for one another.
   Whoever agrees least is left out first, and the rest is judged anew without it.
   Who would be left out for a single class, and agrees well on the others, loses that class alone.
   Before that, whoever takes most classes for other ones is left out, see `relabelled_classes`.
3. *And in each class?* Of an institution that contradicts the others on two classes or more, where
   two of them know these, all classes that do not agree are left out of the fusion; an institution
   of which most classes fail is left out whole. Where the others show that somebody takes two of
   these classes for each other, see `swapped_classes`, they are left out of its answers instead.

Under label skew honest institutions disagree much, and one may be the only one to know a class. So
agreement counts in the classes that both sides know, as far as they know them; with too little in
common nothing is concluded, and the institution keeps its weight. Where half of all institutions
would be left out, as behind strong noise, or where samples are so alike that most institutions
answer one class, nothing is concluded of anybody.

Source: ours. Related: Dawid and Skene (1979), who estimate observers' error rates without labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.aggregation.reliability.answer_agreement import (
    MAX_INSTITUTIONS,
    WELL_KNOWN,
    AnswerAgreement,
    are_diverse,
)
from fedkd.aggregation.reliability.relabelled_classes import relabelling_institutions
from fedkd.aggregation.reliability.swapped_classes import swapped_pair

LEAST_AGREEMENT = 0.1
"""An institution below this is left out. Random and constant answers have 0, inverted ones less."""
EVIDENCE_ALLOWANCE = 0.4
"""Added to an agreement that rests on one class, half of it to one that rests on two, and so on."""
MEDIAN_ALLOWANCE = 0.05
"""Added to the median agreement with peers, which is below that with all of them fused."""
CONTRADICTED = -0.05
"""Below this an institution contradicts the others on a class. Honest ones that know little of it
agree with nobody, and seldom contradict: to leave them out costs more than their noise does."""
CAUGHT = 2
"""Classes that an institution has to contradict the others on before any is left out. Under skew an
honest one does so on one; whoever takes a class for another contradicts on both."""
LEAST_CLASS_AGREEMENT = 0.2
"""A class below this is left out, of an institution that was caught."""
CLEARED = 0.35
"""Agreement on its other classes by which an institution that fails on all loses one class alone:
an outlier in one class is centred into all others. Noise agrees on nothing that is left."""
CLEARING_EVIDENCE = 3.0
"""Classes in common that this has to rest on: on fewer, shuffled ones agree by chance."""
MOST_CLASSES = 0.5
"""Share of the judged classes that may fail before all of an institution is left out."""


@dataclass(frozen=True)
class Reliability:
    """What the answers say of T institutions with K classes."""

    trusted: Tensor
    """(T, K) bool: whose answers on which class are fused."""
    shown: Tensor
    """(T, K) in [0, 1]: how far a claim to know the class well is granted; 1 for small claims."""
    agreement: Tensor
    """(T,) correlation with the others fused, in [-1, 1]; NaN: too little in common."""


@dataclass
class _Judge(AnswerAgreement):
    """Leaves out whom the answers prove unreliable."""

    def scores(self) -> dict[int, float]:
        """By institution that can be judged: what is compared with `LEAST_AGREEMENT`."""
        counts, found = self.counts(), {}
        medians = self.with_peers(counts)
        for k in self.alive:
            whole, evidence = self.on_claims(k, counts)
            values = [whole + EVIDENCE_ALLOWANCE / evidence] if not math.isnan(whole) else []
            if not math.isnan(median := float(medians[k])):
                values.append(median + MEDIAN_ALLOWANCE)
            if values:
                found[k] = min(values)
        return found

    def leave_out_relabelling(self) -> None:
        """Leave out who takes most classes for other ones."""
        known = self.knowledge(self.counts())
        claims = self.knowledge(self.claimed)
        for k in relabelling_institutions(self.columns(known), known, claims):
            self.trusted[k] = False

    def leave_out_institutions(self) -> None:
        """Leave out who agrees least, again and again; then let in who was wronged by a liar.

        Of several who disagree with all others fused, by the mean of their pairs: a loud liar owns
        what is fused, and not what honest institutions say of each other.
        """
        left: list[int] = []
        while len(self.alive) > 2:
            doubted = [k for k, score in self.scores().items() if score < LEAST_AGREEMENT]
            if not doubted:
                break
            pairs = self.mean_of_pairs(self.counts())
            worst = min(doubted, key=lambda k: pairs[k])
            if not self._settled_one_class(worst):
                self.trusted[worst] = False
                left.append(worst)
        wronged = []
        for k in left:
            self.trusted[k] = self.had[k] & ~self.settled[k]
            if self.scores().get(k, math.inf) >= LEAST_AGREEMENT:
                wronged.append(k)
            self.trusted[k] = False
        self.trusted[wronged] = (self.had & ~self.settled)[wronged]

    def _settled_one_class(self, k: int) -> bool:
        """Leave out the class that an institution contradicts most, where the rest then agrees."""
        if bool(self.settled[k].any()):
            return False
        _, by_class, second, _ = self.with_others(k, self.counts())
        worst = int(by_class.masked_fill(second <= WELL_KNOWN, math.inf).argmin())
        if not float(by_class[worst]) < CONTRADICTED:
            return False
        self._settle(k, (worst,))
        enough = self.with_others(k, self.counts())[3] >= CLEARING_EVIDENCE
        if enough and self.scores().get(k, 0.0) >= CLEARED:
            return True
        self.settled[k], self.trusted[k] = False, self.had[k]
        return False

    def _settle(self, k: int, classes: Sequence[int]) -> None:
        """Leave out classes that explain why an institution disagreed; the rest is judged alone."""
        self.settled[k, classes], self.trusted[k, classes] = True, False

    def leave_out_classes(self) -> None:
        """Leave out classes that do not agree, of who has most of them first."""
        while failed := self._failed_classes():
            k = max(failed, key=lambda k: (len(failed[k][0]), -failed[k][1]))
            classes, _, judged, worst = failed[k]
            known = self.knowledge(self.counts())
            swap = swapped_pair(self.columns(known), known, classes)
            if swap is not None:  # of two who contradict each other, it is who most others accuse
                self._settle(*swap)
            elif len(classes) >= max(3, MOST_CLASSES * judged) and len(self.alive) > 2:
                self.trusted[k] = False
            else:
                self.trusted[k, worst] = False

    def _failed_classes(self) -> dict[int, tuple[list[int], float, int, int]]:
        """By institution: classes that fail, the least agreement, number judged, the worst."""
        counts, found = self.counts(), {}
        for k in self.alive:
            whole, by_class, second, _ = self.with_others(k, counts)
            if math.isnan(whole):
                continue
            judged = self.trusted[k] & (counts[k] > 0) & (second > WELL_KNOWN)
            gone = self.had[k] & ~self.trusted[k] & ~self.settled[k]
            contradicted = int((judged & (by_class < CONTRADICTED)).sum())
            contradicted += int(self.settled[k].sum() == 1)
            fails = judged & (by_class < LEAST_CLASS_AGREEMENT)
            if (bool(gone.any()) or contradicted >= CAUGHT) and bool(fails.any()):
                least = by_class.masked_fill(~fails, math.inf)
                classes = (fails | gone).nonzero()[:, 0].tolist()
                number = int((judged | gone).sum())
                found[k] = (classes, float(least.min()), number, int(least.argmin()))
        return found


def estimate_reliability(
    logits: Tensor, counts: Tensor, known: Tensor | None = None
) -> Reliability:
    """Estimate the reliability of institutions from their answers to the same samples.

    Args:
        logits: (T, N, K), -inf in a class that an institution does not have.
        counts: (T, K) training images of each class as they are claimed, bounded.
        known: (T, K) whether an institution has the class; None: all do.

    Returns:
        All trusted where fewer than three institutions answered or more than `MAX_INSTITUTIONS`,
        where samples are too much alike, or where half would not be.
    """
    had = torch.ones_like(counts, dtype=torch.bool) if known is None else known
    if not (3 <= len(logits) <= MAX_INSTITUTIONS and are_diverse(logits)):
        nothing = torch.full((len(logits),), math.nan)
        return Reliability(torch.ones_like(had), torch.ones_like(counts).double(), nothing)
    judge = _Judge.of(logits, counts, had)
    judge.leave_out_relabelling()
    judge.leave_out_institutions()
    judge.leave_out_classes()
    agreement = torch.tensor([judge.agreement(k) for k in range(len(logits))])
    if 2 * len(judge.alive) <= len(logits):
        everything = torch.ones_like(had)
        return Reliability(everything, everything.double(), agreement)
    shown = judge.shown()
    small = (judge.claimed / judge.average).sqrt() < WELL_KNOWN
    return Reliability(judge.trusted | ~had, shown.masked_fill(small, 1.0), agreement)
