"""What papers share: pieces of a generator's objective. Knows a batch and what was said of it.

Every term is minimised, and its weight is never negative: where a paper maximises a quantity,
the term is its negative, and the docstring says which way is good.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.protocol import Signal
from fedkd.synthesis.discriminator import Judgement

LEAST = 1e-30
"""Below this a probability is zero: p log p is, and its logarithm stays finite."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Invented images and what teacher and student say of them."""

    images: Tensor
    """(B, C, H, W) in [0, 1]."""
    teacher: Mapping[Signal, Tensor]
    """The ensemble's signals."""
    student: Tensor
    """The student's logits, (B, K)."""
    selected: Tensor | None = None
    """(B,) bool: images that passed the method's selection; None: all."""
    wanted: Tensor | None = None
    """(B,) classes that the images are meant to show, or (B, K) probabilities that they are meant
    to be given; None where nobody means anything."""
    previous: Mapping[str, Tensor] = field(default_factory=dict)
    """By term, what it was to remember of an earlier batch; absent before the first time."""
    students: Tensor | None = None
    """Logits of the student and its peers, (M, B, K); None where it has none."""
    distinctness: Tensor | None = None
    """What `fedkd.synthesis.instance_discrimination` makes of the images, (); None where nobody tells them apart."""
    judged: Judgement | None = None
    """What a critic says of them; None where there is none."""


@dataclass(frozen=True)
class Term:
    """A loss of a batch: low is good."""

    name: str
    equation: str
    needs: frozenset[Signal]
    """What must be asked of an institution to compute it."""
    value: Callable[[Batch], Tensor]
    """Batch -> ()."""
    memory: Callable[[Batch], Tensor] | None = None
    """Batch -> what it finds under its name in `Batch.previous` from the next epoch on."""


def one_hot() -> Term:
    """Cross-entropy of the teacher against its own decision; low: the teacher is sure."""

    def value(b: Batch) -> Tensor:
        logits = b.teacher[Signal.LOGITS]  # (B, K)
        return F.cross_entropy(logits, logits.argmax(1))

    return Term("one_hot", "CE(T(x), argmax T(x))", frozenset({Signal.LOGITS}), value)


def wanted_class(temperature: float = 1.0) -> Term:
    """Cross-entropy of the teacher with what was wanted, a class or probabilities; low: it agrees.

    Args:
        temperature: of the teacher's softmax, > 0.
    """

    def value(b: Batch) -> Tensor:
        if b.wanted is None:
            raise SettingsError("term wanted_class needs a canvas that wants classes")
        return F.cross_entropy(b.teacher[Signal.LOGITS] / temperature, b.wanted)

    return Term("wanted_class", "CE(T(x) / tau, y)", frozenset({Signal.LOGITS}), value)


def penalised(term: Term) -> Term:
    """E to the power of what a term has gained since the last epoch; low: it got no worse.

    Of two terms that pull apart, whichever became worse is pulled exponentially harder. No weight
    has to be found; before there is a past, the past is 0.
    """

    def value(b: Batch) -> Tensor:
        return torch.exp(term.value(b) - b.previous.get(term.name, 0.0))

    equation = f"exp(L - L_previous), L = {term.equation}"
    return Term(term.name, equation, term.needs, value, memory=term.value)


def class_balance(temperature: float = 1.0) -> Term:
    """Negative entropy of the mean prediction; low: every class is present in the batch."""

    def value(b: Batch) -> Tensor:
        p = (b.teacher[Signal.LOGITS] / temperature).softmax(1).mean(0)  # (K,)
        return (p * p.clamp_min(LEAST).log()).sum()  # entr has no slope at 0

    return Term(
        "class_balance",
        "sum_c p(c) log p(c), p = mean_b softmax(T(x_b) / tau)",
        frozenset({Signal.LOGITS}),
        value,
    )


def bn_gap() -> Term:
    """Distance to the teacher's batch-norm statistics; low: looks like what it was trained on."""
    return Term(
        "bn_gap",
        "sum_layers |mu_running - mu(x)|_2 + |var_running - var(x)|_2",
        frozenset({Signal.BN_GAP}),
        lambda b: b.teacher[Signal.BN_GAP],
    )


def agreement(temperature: float = 3.0, masked: bool = True, ceiling: float | None = None) -> Term:
    """Negative divergence of student from teacher; low: they disagree, the student can learn.

    Args:
        temperature: of both softmaxes, > 0; the divergence is scaled by its square.
        masked: count only images on which both still decide alike.
        ceiling: most that one image can contribute, None for no limit.
    """

    def value(b: Batch) -> Tensor:
        teacher = b.teacher[Signal.LOGITS]
        each = temperature**2 * F.kl_div(
            (b.student / temperature).log_softmax(1),
            (teacher / temperature).log_softmax(1),
            reduction="none",
            log_target=True,
        ).sum(1)  # (B,)
        if ceiling is not None:
            each = each.clamp_max(ceiling)
        if masked:
            each = each * (b.student.argmax(1) == teacher.argmax(1))
        return -each.mean()

    return Term(
        "agreement",
        "-mean_b m_b tau^2 KL(softmax(T/tau) || softmax(S/tau))",
        frozenset({Signal.LOGITS}),
        value,
    )


def discrepancy() -> Term:
    """Negative distance of centred logits; low: student and teacher are far apart.

    Centred, or an offset of all classes, which decides nothing, would be the easiest way there.
    """

    def value(b: Batch) -> Tensor:
        apart = b.student - b.teacher[Signal.LOGITS]  # (B, K)
        return -(apart - apart.mean(1, keepdim=True)).abs().mean()

    return Term(
        "discrepancy",
        "-mean_b mean_c |d_bc - mean_c d_bc|, d = S(x) - T(x)",
        frozenset({Signal.LOGITS}),
        value,
    )


def jensen_shannon(
    temperature: float = 3.0, over_classes: bool = False, held: bool = False
) -> Term:
    """One less the divergence of student and teacher; low: they disagree on what was selected.

    The mean of both is compared with each, not each with the mean, and probabilities are cut off
    at 0.01 and 0.99, as in the public code of DeepInversion and its heirs.

    Args:
        temperature: of both softmaxes, > 0.
        over_classes: divide by the number of classes too.
        held: take the teacher's answers as given; only the student's part has a slope.
    """

    def value(b: Batch) -> Tensor:
        student, teacher = b.student, b.teacher[Signal.LOGITS]
        if held:
            teacher = teacher.detach()
        if b.selected is not None:
            student, teacher = student[b.selected], teacher[b.selected]
        p = (student / temperature).softmax(1)
        q = (teacher / temperature).softmax(1)
        p, q, m = (each.clamp(0.01, 0.99) for each in (p, q, 0.5 * (p + q)))
        each = 0.5 * (m * (2 * m.log() - p.log() - q.log()))  # (B, K)
        apart = each.mean() if over_classes else each.sum(1).mean()
        return 1.0 - apart.clamp(0.0, 1.0)

    return Term(
        "jensen_shannon",
        "1 - (KL(m || p) + KL(m || q)) / 2, m = (p + q) / 2, p, q = softmax(S, T / tau)",
        frozenset({Signal.LOGITS}),
        value,
    )
