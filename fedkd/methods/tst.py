"""TST. Teaching what you should teach: a data-based distillation method.

S. Shao, H. Chen, Z. Huang, L. Gong, S. Wang, X. Wu. IJCAI 2023, arXiv 2212.05422. The public code
was read, the paper's text was not.

An augmenter a with learned magnitudes and probabilities looks for views of real, labelled images
on which the teacher is right and the student is not:

    L_A = -log p_T(y | a(x)) - log(1 - p_S(y | a(x))),      minimised

and the student learns from them by cross-entropy and 16 KL at temperature 4.

Our reading, without data. There are no real images and no labels: y is what the ensemble answers,
and what is chosen are the parameters of procedural priors, as arms of a bandit
(`fedkd.synthesis.prior_sampling.prior_parameter_bandit`). An arm's reward is exp(-L_A), the mean
of its last batches.

    L_S = T^2 KL(p_T || p_S),      T = 4

Departures
  A bandit in the place of gradients: 25 parameters of differentiable augmentations are learned in
    the paper, through the teacher. Here two halves of each prior's first range compete, and nothing
    is asked beyond the samples that the student learns from.
  exp(-L_A), in [0, 1], in the place of -L_A: one sample of which the teacher is unsure would
    outweigh a batch.
  No cross-entropy: there are no labels.
"""

from collections.abc import Mapping

from fedkd.core.schedules import constant
from fedkd.losses import kl_divergence
from fedkd.methods.method import Method, Share
from fedkd.synthesis import PriorParameterBandit

PAPER = "Shao et al., IJCAI 2023 (arXiv 2212.05422)"


def tst(
    *, temperature: float = 4.0, sharpness: float = 0.1, memory: int = 4, negated: bool = False
) -> Method:
    """TST as a value.

    Args:
        temperature: of the student's loss, > 0.
        sharpness: of the choice among arms, > 0; small trusts rewards blindly.
        memory: batches remembered of each arm, >= 1.
        negated: choose what pays least, which is a control.
    """
    arms = PriorParameterBandit(sharpness, memory, negated)
    sources: Mapping[str, Share] = {"prior": Share(arms, constant(1.0))}
    return Method("tst", PAPER, sources, kl_divergence(temperature))
