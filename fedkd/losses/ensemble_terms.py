"""Terms of generators that try an ensemble of institutions. All are minimised."""

import torch.nn.functional as F
from torch import Tensor

from fedkd.errors import SettingsError
from fedkd.losses.term import Batch, Term
from fedkd.protocol import Signal


def boundary_support() -> Term:
    """Negative divergence where student and ensemble decide differently; low: far apart there.

    Such images lie between the two decision boundaries. The opposite of the mask of `agreement`.
    """

    def value(b: Batch) -> Tensor:
        teacher = b.teacher[Signal.LOGITS]
        each = F.kl_div(
            b.student.log_softmax(1), teacher.log_softmax(1), reduction="none", log_target=True
        ).sum(1)  # (B,)
        return -(each * (b.student.argmax(1) != teacher.argmax(1))).mean()

    return Term(
        "boundary_support",
        "-mean_b w_b KL(softmax(T) || softmax(S)), w_b = [argmax T != argmax S]",
        frozenset({Signal.LOGITS}),
        value,
    )


def hard_class(power: float = 1.0) -> Term:
    """Cross-entropy with the wanted class, each image by how hard it is; low: all are easy.

    Args:
        power: of 1 - p, p the ensemble's probability of the wanted class, >= 0; 0: all are alike.
    """
    if power < 0:
        raise SettingsError(f"hard_class: expected a power >= 0, got {power}")

    def value(b: Batch) -> Tensor:
        if b.wanted is None:
            raise SettingsError("term hard_class needs a canvas that wants classes")
        each = F.cross_entropy(b.teacher[Signal.LOGITS], b.wanted, reduction="none")  # (B,)
        hardness = (1 - (-each.detach()).exp()) ** power
        return (hardness * each).mean()

    return Term(
        "hard_class", "mean_b (1 - p_b)^a CE(T(x_b), y_b)", frozenset({Signal.LOGITS}), value
    )
