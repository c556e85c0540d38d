"""Contrastive losses: synthesised images that can be told from one another by their features."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.losses.term import Batch, Term
from fedkd.protocol import Signal


def instance_discrimination(discriminator: Any, by_teacher: bool = False) -> Term:
    """Cross-entropy of which of many images a view shows; low: each can be told by its view.

    Args:
        discriminator: spec of the network that tells them apart,
            `fedkd.synthesis.InstanceDiscriminator`, or `TeacherInstanceDiscriminator`.
        by_teacher: whether by the teacher's features, of which one view of each image is asked.
    """

    def value(b: Batch) -> Tensor:
        loss: Tensor = b.of(discriminator)
        return loss

    f = "T" if by_teacher else "S"
    equation = f"mean_i CE(v_i . V / tau, i), v, V = |h({f}(view of x))|, |h({f}(x))|"
    needs = frozenset({Signal.FEATURES}) if by_teacher else frozenset[Signal]()
    name, reads = "instance_discrimination", (discriminator,)
    return Term(name, equation, needs, value, reads=reads, views=int(by_teacher))


def contrastive_loss(features: Tensor, of_views: Tensor) -> Tensor:
    """How alike images are to one another, beside how alike each is to another view of it. ().

    ``mean_i -log(exp(cos(h_i, t_i)) / sum_{j != i} exp(cos(h_i, h_j)))``

    Args:
        features: h, (B, D), of two images at least.
        of_views: t, (B, D), of another view of each.

    Source: DIP-KD (arXiv 2604.25794), eq. on L_CT, after CMI (Fang et al., IJCAI 2021).
    """
    h, t = F.normalize(features, dim=1), F.normalize(of_views, dim=1)
    others = (h @ h.T).masked_fill(torch.eye(len(h), dtype=torch.bool, device=h.device), -torch.inf)
    return (others.logsumexp(1) - (h * t).sum(1)).mean()
