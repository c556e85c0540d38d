"""DFQ. Data-free network quantization with adversarial knowledge distillation.

Y. Choi, J. Choi, M. El-Khamy, J. Lee. CVPR Workshops 2020, arXiv 2005.04136.

The generator is adversary of the student and imitator of the teacher's memory at once; of the
paper the distillation is here, not the quantisation:

    L_G = agreement + bn * bn_gap + one_hot + balance * class_balance
    L_S = tau^2 KL(softmax(T / tau) || softmax(S / tau)),     tau = 1

agreement is -L_S, over all images: also those on which teacher and student decide differently.

Departures
  Weights are those of the public comparison by the authors of CMI. The paper's own code was not
    at hand.
  The paper measures batch-norm statistics by the divergence of two Gaussians in each channel; here
    it is their distance, which institutions compute anyway and whose parts never travel.
  There is one generator and one student; the paper also shows what several of each gain.
  Ten student steps for one of the generator become the plan's ratio, AdamW's, from the bank.
"""

from fedkd.losses.distillation import divergence
from fedkd.losses.term import agreement, bn_gap, class_balance, one_hot
from fedkd.methods.method import Method, sources, used
from fedkd.student.curriculum import constant
from fedkd.synthesis.gradients import PULL_BACK

PAPER = "Choi et al., CVPR Workshops 2020 (arXiv 2005.04136)"


def dfq(
    *,
    adversarial_weight: float = 1.0,
    bn_weight: float = 1.0,
    one_hot_weight: float = 1.0,
    balance_weight: float = 20.0,
    temperature: float = 1.0,
    latent: int = 256,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """DFQ as a value.

    Args:
        adversarial_weight: of the disagreement, >= 0.
        bn_weight: of the batch-norm gap, >= 0; 0 spares institutions the signal.
        one_hot_weight: of the teacher's own decision, >= 0.
        balance_weight: of the class balance, >= 0.
        temperature: tau of both losses, > 0.
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of the generator's Adam.
    """
    return Method(
        "dfq",
        PAPER,
        used(
            (
                (constant(adversarial_weight), agreement(temperature, masked=False)),
                (constant(bn_weight), bn_gap()),
                (constant(one_hot_weight), one_hot()),
                (constant(balance_weight), class_balance()),
            )
        ),
        PULL_BACK,
        sources(True, warm_up, generated),
        divergence(temperature),
        latent=latent,
        generator_rate=generator_rate,
        generator_betas=(0.9, 0.999),
    )
