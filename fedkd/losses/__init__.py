"""Loss terms by which samples are synthesised, and the distillation losses of students.

A term is minimised; it names the signals that must be asked for and the auxiliary networks that it
reads.
"""

from fedkd.losses.adversarial import (
    adversarial_kl,
    boundary_support,
    disagreement,
    jensen_shannon,
    logit_discrepancy,
)
from fedkd.losses.class_prior import (
    category_frequency,
    class_balance,
    hard_class,
    one_hot,
    target_class,
    targets_of,
)
from fedkd.losses.contrastive import contrastive_loss, instance_discrimination
from fedkd.losses.distillation import (
    DISTILLATION_LOSSES,
    PerSlice,
    cross_entropy,
    kl_divergence,
    l1_centred,
    loss_named,
    nothing,
    squared_centred,
)
from fedkd.losses.gan_generator import adversarial_realness, classwise_realness
from fedkd.losses.image_prior import PIXEL_DEVIATION, l2_norm, mode_seeking, total_variation
from fedkd.losses.number_discrepancy import (
    row_magnitude,
    squared_discrepancy,
    student_magnitude,
)
from fedkd.losses.relational import embedding_distance, relation_kl, relation_squared
from fedkd.losses.statistics import activation, bn_gap
from fedkd.losses.task_prior import task_balance, task_one_hot, task_sparsity
from fedkd.losses.term import Batch, Objective, Term, penalised, weighted

__all__ = [
    "DISTILLATION_LOSSES",
    "PIXEL_DEVIATION",
    "Batch",
    "Objective",
    "PerSlice",
    "Term",
    "activation",
    "adversarial_kl",
    "adversarial_realness",
    "bn_gap",
    "boundary_support",
    "category_frequency",
    "class_balance",
    "classwise_realness",
    "contrastive_loss",
    "cross_entropy",
    "disagreement",
    "embedding_distance",
    "hard_class",
    "instance_discrimination",
    "jensen_shannon",
    "kl_divergence",
    "l1_centred",
    "l2_norm",
    "logit_discrepancy",
    "loss_named",
    "mode_seeking",
    "nothing",
    "one_hot",
    "penalised",
    "relation_kl",
    "relation_squared",
    "row_magnitude",
    "squared_centred",
    "squared_discrepancy",
    "student_magnitude",
    "target_class",
    "targets_of",
    "task_balance",
    "task_one_hot",
    "task_sparsity",
    "total_variation",
    "weighted",
]
