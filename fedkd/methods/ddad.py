"""DDAD, built from its abstract, without the paper's text or code.

"Dual discriminator adversarial distillation for data-free model compression."
H. Zhao, X. Sun, J. Dong, H. Yu, H. Zhou. International Journal of Machine Learning and Cybernetics,
2021, arXiv 2104.05382.

Teacher and student judge the generator together: it is to match the batch-norm statistics of the
one and to lie far from the other:

    L_G = logit_discrepancy + bn * bn_gap + one_hot_weight * one_hot
    L_S = mean_b mean_c |S_c(x_b) - T_c(x_b)|,      logit_discrepancy = -L_S

Departures
  The paper's text was not at hand beyond its abstract. That its distance is of logits, and that
    the teacher's own decision has a part in L_G, is from memory; weights of 1 are ours. Section 3
    of the paper would settle both, and its released code the weights.
  Logits are centred first, in both losses: an offset of all classes decides nothing.
  Classification only; the paper segments images too.
  Every answer is kept and learned from again, by AdamW.
"""

from fedkd.core.schedules import constant
from fedkd.losses import bn_gap, l1_centred, logit_discrepancy, one_hot, weighted
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import PULL_BACK, GeneratorNetwork, TrainedGenerator

PAPER = "Zhao et al., 2021 (arXiv 2104.05382)"


def ddad(
    *,
    adversarial_weight: float = 1.0,
    bn_weight: float = 1.0,
    one_hot_weight: float = 1.0,
    latent: int = 256,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """DDAD as a value.

    Args:
        adversarial_weight: of the discrepancy, >= 0.
        bn_weight: of the batch-norm gap, >= 0; 0 spares institutions the signal.
        one_hot_weight: of the teacher's own decision, >= 0.
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of the generator's Adam.
    """
    generator = TrainedGenerator(
        weighted(
            (constant(adversarial_weight), logit_discrepancy()),
            (constant(bn_weight), bn_gap()),
            (constant(one_hot_weight), one_hot()),
        ),
        PULL_BACK,
        GeneratorNetwork(latent),
        generator_rate,
    )
    return Method(
        "ddad",
        PAPER,
        shares(generator, warm_up, generated),
        l1_centred,
    )
