"""Relations of a batch: the cosine Gram matrix of its features, and its rounding for the wire.

    R = N N^T,  N the features (B, D) with rows of unit length

A rotation of the features does not change R. So matrices of institutions whose feature spaces do
not match can be averaged. For B > D a matrix tells the normalised features up to a rotation.

Source: relational matching of teachers in ODSD (Wang et al., arXiv 2307.16601) and the embeddings
of EmbedDistill (Kim et al., arXiv 2301.12005); that institutions send this matrix is our reading.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 127
"""Steps from 0 to 1 to which a relation is rounded, so that it fits a signed byte."""


def cosine_relations(features: Tensor) -> Tensor:
    """The cosine Gram matrix (B, B) of features (B, D), differentiable.

    Entries lie in [-1, 1]. A row of zeros has relation 0 to all, itself included.
    """
    unit = F.normalize(features, dim=1)
    return unit @ unit.T


def relation_steps(relations: Tensor) -> Tensor:
    """(B, B) float in [-1, 1] -> whole steps in -127..127, int8; symmetric."""
    symmetric = (relations.float() + relations.float().T) / 2
    return (symmetric.clamp(-1.0, 1.0) * STEPS).round().to(torch.int8)


def relations_of_steps(steps: Tensor) -> Tensor:
    """The relations, float16, of whole steps in -127..127."""
    return (steps.float() / STEPS).half()
