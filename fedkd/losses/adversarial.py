"""Adversarial terms: how far student and teacher, or several students, disagree on images."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.term import LOGITS, Batch, Term
from fedkd.protocol import Signal


def adversarial_kl(
    temperature: float = 3.0, masked: bool = True, ceiling: float | None = None
) -> Term:
    """Negative divergence of student from teacher; low: they disagree, the student can learn.

    Masked, it is the decision-adversarial divergence: only images on which both decide alike.

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

    equation = "-mean_b m_b tau^2 KL(softmax(T/tau) || softmax(S/tau))"
    return Term("adversarial_kl", equation, LOGITS, value)


def logit_discrepancy() -> Term:
    """Negative distance of centred logits; low: student and teacher are far apart.

    Centred, or an offset of all classes, which decides nothing, would be the easiest way there.
    """

    def value(b: Batch) -> Tensor:
        apart = b.student - b.teacher[Signal.LOGITS]  # (B, K)
        return -(apart - apart.mean(1, keepdim=True)).abs().mean()

    equation = "-mean_b mean_c |d_bc - mean_c d_bc|, d = S(x) - T(x)"
    return Term("logit_discrepancy", equation, LOGITS, value)


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

    equation = "1 - (KL(m || p) + KL(m || q)) / 2, m = (p + q) / 2, p, q = softmax(S, T / tau)"
    return Term("jensen_shannon", equation, LOGITS, value)


def boundary_support() -> Term:
    """Negative divergence where student and ensemble decide differently; low: far apart there.

    Such images lie between the two decision boundaries. The opposite of the mask of
    `adversarial_kl`.
    """

    def value(b: Batch) -> Tensor:
        teacher = b.teacher[Signal.LOGITS]
        each = F.kl_div(
            b.student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True
        ).sum(1)  # (B,)
        return -(each * (b.student.argmax(1) != teacher.argmax(1))).mean()

    equation = "-mean_b w_b KL(softmax(T) || softmax(S)), w_b = [argmax T != argmax S]"
    return Term("boundary_support", equation, LOGITS, value)


def disagreement(peers: Any) -> Term:
    """Negative deviation of what students believe; low: they disagree, one of them is wrong.

    The deviation is the sample's, over M - 1.

    Args:
        peers: spec of the networks that the student is compared with, `fedkd.student.Peers`.
    """

    def value(b: Batch) -> Tensor:
        students: Tensor = b.of(peers)  # (M, B, K), the student among them
        return -students.softmax(2).std(0).mean()

    equation = "-mean_b mean_c std_m softmax(S_m(x_b))_c"
    return Term("disagreement", equation, frozenset(), value, reads=(peers,))
