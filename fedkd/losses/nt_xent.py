"""NT-Xent: contrastive loss of two views of each sample of a batch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Mean over both views i of a sample, whose other view is j. (B,).

    ``-log(exp(cos(z_i, z_j) / tau) / sum_{k != i} exp(cos(z_i, z_k) / tau))``, k over 2 B views

    Args:
        first: (B, D), embeddings of one view of each sample.
        second: (B, D), of the other.
        temperature: tau > 0.

    Source: SimCLR (Chen et al., ICML 2020).
    """
    views = F.normalize(torch.cat([first, second]), dim=1)  # (2 B, D)
    alike = views @ views.T / temperature
    alike = alike.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -1e9)
    other = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(alike, other, reduction="none").view(2, -1).mean(0)
