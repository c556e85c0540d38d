"""Class-prior terms of several tasks: each is taken over one task's softmax and summed over tasks.

Of one task alone they are those of classes. A task that nobody answered is left out.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.core.source_types import SOFTMAXES
from fedkd.losses.term import LEAST, LOGITS, Batch, Term
from fedkd.protocol import Signal


def task_one_hot() -> Term:
    """Cross-entropy of each task with its own decision; low: every teacher is sure.

    Source: group-stack dual-GAN (Ye et al., CVPR 2020), L_oh; a third party's transcription was
    read. There t_i = [y_i >= 1/2] of independent labels; here t is the decision of a softmax.
    """

    def of_task(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, logits.argmax(1))

    return Term(
        "task_one_hot",
        "sum_m CE(T_m(x), argmax T_m(x))",
        LOGITS,
        _summed(of_task),
        tasks=SOFTMAXES,
    )


def task_balance() -> Term:
    """Negative entropy of each task's mean prediction; low: a batch shows every class of each.

    Source: likewise, L_ie, the information entropy of DAFL. Over tasks it is our reading.
    """

    def of_task(logits: Tensor) -> Tensor:
        p = logits.softmax(1).mean(0)
        return (p * p.clamp_min(LEAST).log()).sum()

    return Term(
        "task_balance",
        "sum_m sum_c p_m(c) log p_m(c), p_m = mean_b softmax(T_m(x_b))",
        LOGITS,
        _summed(of_task),
        tasks=SOFTMAXES,
    )


def task_sparsity() -> Term:
    """Mean probability of what no task decides for; low: few labels are active.

    Source: likewise, the term mean_i |y_i| of independent labels. Our reading for a softmax, whose
    probabilities always add up to one: the mean is taken over the classes that are not decided for.
    """

    def of_task(logits: Tensor) -> Tensor:
        others = 1 - logits.softmax(1).max(1).values
        return others.mean() / max(1, logits.shape[1] - 1)

    return Term(
        "task_sparsity",
        "sum_m mean_b (1 - max_c p_mbc) / (K_m - 1), p_m = softmax(T_m(x))",
        LOGITS,
        _summed(of_task),
        tasks=SOFTMAXES,
    )


def _summed(of_task: Callable[[Tensor], Tensor]) -> Callable[[Batch], Tensor]:
    def value(b: Batch) -> Tensor:
        logits = b.teacher[Signal.LOGITS]
        groups = b.groups or (slice(0, logits.shape[1]),)
        each = [of_task(own) for at in groups if not bool((own := logits[:, at]).isnan().any())]
        return torch.stack(each).sum() if each else logits.new_zeros(())

    return value
