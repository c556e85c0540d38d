"""Supervised contrastive training of an encoder: samples of one class are drawn together.

P. Khosla et al., NeurIPS 2020, arXiv 2004.11362, the form with the sum outside the logarithm:

    L_i = -1/|P_i| sum_(p in P_i) log( exp(z_i . z_p / tau) / sum_(a != i) exp(z_i . z_a / tau) )

z are outputs of unit length, P_i the other samples of the batch with the class of i. What was seen:
the equation, from memory. Each sample is seen once in a batch, where the paper has two views.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.1


def supervised_contrastive(outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean of L_i over samples that have another of their class in the batch, ().

    Args:
        outputs: (B, D).
        labels: (B,) classes; where no two are alike the loss is 0.
    """
    unit = F.normalize(outputs, dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    log_p = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -1e9).log_softmax(1)
    alike = (labels[:, None] == labels) & ~itself
    count = alike.sum(1)
    each = -(log_p * alike).sum(1) / count.clamp_min(1)
    return each.sum() / (count > 0).sum().clamp_min(1)
