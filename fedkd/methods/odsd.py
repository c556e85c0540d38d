"""ODSD. Open-world data sampling distillation: choose public samples near the private ones.

Y. Wang, Z. Chen, J. Zhang, D. Yang, Z. Ge, Y. Liu, S. Liu, Y. Sun, W. Zhang, L. Qi.
arXiv 2307.16601.

No generator. Adaptive prototype sampling chooses unlabelled samples of an open-world set by three
scores, and the student learns what teachers answer to those:

    score(x) = confidence(x) - outlier(x) - density(x), each scaled to [0, 1] over the candidates
    confidence(x) = max_c p_S(x)_c
    outlier(x)    = sum_j w_j(x) d_j,   w(x) = softmax_j(-|f_S(x) - m_j|^2 / s^2)
    density(x)    = share of the answered samples whose class is that of the nearest m_j
    L_S = KL(softmax T(x) || softmax S(x))

S is the student, f_S the input of its last layer, T the fused answer. For each class that
institutions answered, the m_j are the means of at most three clusters of the f_S of those samples.
d_j is the mean disagreement of the institutions about the members of a cluster (the mutual
information of `fedkd.synthesis.public_pool.selection_rules.disagreement_of`).

What is certain and what is our reading
  Of the paper its abstract was read: the choice is by prototypes and near the private data, and the
  student learns relations besides. That three scores are added, which they are, and the form of
  each is our reading. No public code was found.

What cannot cross
  "Every candidate is scored by the teacher": each score would cost a question. A random tenth is
    asked, and the student judges all others for nothing, anew after each twentieth.
  "Prototypes are of the teacher's features": those of several institutions share no space. Which
    samples make a prototype comes from the answers, where it lies from the student's features.
  "The student learns relations among samples" (denoising contrastive relational distillation):
    the signal ``relations`` releases how samples relate to an institution's teacher. But the bank
    keeps a target of classes for each sample alone, and draws over questions, so a student of
    classes has no relations to learn from, and that part is absent.

Departures
  The random tenth has junk in it, and so have prototypes. Therefore an outlier is what lies near
    prototypes about which institutions disagree, rather than what lies far from all of them.
  The student's loss is the divergence alone. Its steps are AdamW's.
"""

from fedkd.core.schedules import constant
from fedkd.losses import kl_divergence
from fedkd.methods.method import Method, Share
from fedkd.synthesis import PublicSamples, rule_named

PAPER = "Wang et al., 2023 (arXiv 2307.16601)"


def odsd(
    *,
    selection: str = "prototypes",
    first_share: float = 0.1,
    round_share: float = 0.05,
    temperature: float = 1.0,
) -> Method:
    """ODSD as a value; it needs public samples, see ``images.public``.

    Args:
        selection: which public samples are asked about, see
            `fedkd.synthesis.public_pool.selection_rules`; the others are controls.
        first_share: of the questions, about samples drawn at random, in (0, 1].
        round_share: of the questions, after which the student judges anew, in (0, 1].
        temperature: of the divergence, > 0.
    """
    public = PublicSamples(
        rule=rule_named(selection), first_share=first_share, round_share=round_share
    )
    loss = kl_divergence(temperature)
    return Method("odsd", PAPER, {"public": Share(public, constant(1.0))}, loss)
