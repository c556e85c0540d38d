"""Losses of embeddings: by the relations of a batch, or by distance in a shared space.

Targets are rows (B, W) whose Gram matrix is the mean relation of the institutions, see
`fedkd.aggregation.embedding_fusion`; all rows of a batch are of one question. The student's output
(B, D) may be of another width.

Source: the distance is embedding matching of EmbedDistill (Kim et al., arXiv 2301.12005, Eq. 7/8);
the losses of relations are our reading of how it can be had of several institutions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.core.task import Loss
from fedkd.protocol import cosine_relations

ITSELF = -1e9
"""In the place of a sample's relation to itself before a softmax."""


def relation_squared(student: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of a row's relations off the diagonal. (B,).

    l_i = 1 / (B - 1) sum_(j != i) (cos(s_i, s_j) - t_i . t_j)^2
    """
    difference = cosine_relations(student) - target @ target.T
    apart = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    return (difference * apart).square().sum(1) / max(len(student) - 1, 1)


def relation_kl(temperature: float = 0.1) -> Loss:
    """KL divergence of the softmaxes of a row's relations off the diagonal. (B,).

        l_i = KL(softmax_(j != i)(t_i . t_j / tau) || softmax_(j != i)(cos(s_i, s_j) / tau))

    Args:
        temperature: tau, > 0.
    """

    def loss(student: Tensor, target: Tensor) -> Tensor:
        if len(student) < 2:
            return student.sum(1) * 0.0
        itself = torch.eye(len(student), dtype=torch.bool, device=student.device)
        own, taught = (
            (relations / temperature).masked_fill(itself, ITSELF).log_softmax(1)
            for relations in (cosine_relations(student), target @ target.T)
        )
        return F.kl_div(own, taught, log_target=True, reduction="none").sum(1)

    return loss


def embedding_distance(student: Tensor, target: Tensor) -> Tensor:
    """Distance of the student's output (B, D) from the first D columns of the target. (B,).

    l_i = |e_T(x_i) - P e_S(x_i)|_2, P the student's last layer
    """
    apart = student - target[:, : student.shape[1]]
    # The distance has no slope at 0.
    return (apart.square().sum(1) + 1e-12).sqrt()
