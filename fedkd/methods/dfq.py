"""DFQ: adversarial distillation with batch-norm statistics, built without its paper's own code.

"Data-free network quantization with adversarial knowledge distillation."
Y. Choi, J. Choi, M. El-Khamy, J. Lee. CVPR Workshops 2020, arXiv 2005.04136.

The generator is adversary of the student and imitator of the teacher's memory at once; of the
paper the distillation is here, not the quantisation:

    L_G = adversarial_kl + bn * bn_gap + one_hot + balance * class_balance
    L_S = tau^2 KL(softmax(T / tau) || softmax(S / tau)),     tau = 1

adversarial_kl is -L_S, over all images: also those on which teacher and student decide differently.

Departures
  Weights, betas and a student in training mode are those of the public comparison by the authors
    of CMI. The paper's text and own code were not at hand; they would settle the weights, and how
    often a generator of the past is drawn from.
  The paper measures batch-norm statistics by the divergence of two Gaussians in each channel; here
    it is their distance, which institutions compute anyway and whose parts never travel.
  There is one generator and one student; the paper also shows what several of each gain.
  Ten student steps for one of the generator become the plan's ratio, AdamW's, from the bank.
"""

from fedkd.core.schedules import constant
from fedkd.losses import adversarial_kl, bn_gap, class_balance, kl_divergence, one_hot, weighted
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import PULL_BACK, GeneratorNetwork, TrainedGenerator

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
    generator = TrainedGenerator(
        weighted(
            (constant(adversarial_weight), adversarial_kl(temperature, masked=False)),
            (constant(bn_weight), bn_gap()),
            (constant(one_hot_weight), one_hot()),
            (constant(balance_weight), class_balance()),
        ),
        PULL_BACK,
        GeneratorNetwork(latent),
        generator_rate,
        (0.5, 0.999),
        student_training=True,
    )
    return Method(
        "dfq",
        PAPER,
        shares(generator, warm_up, generated),
        kl_divergence(temperature),
    )
