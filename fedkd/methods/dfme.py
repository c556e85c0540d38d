"""DFME. Data-free model extraction.

J.-B. Truong, P. Maini, R. J. Walls, N. Papernot. CVPR 2021, arXiv 2011.14779.

The game of DFAD with a teacher that only answers: m answers about slightly moved images stand for
its gradient, so that an image which teaches the generator costs 1 + m questions:

    L_G = -mean_b mean_c |S_c(x_b) - T_c(x_b)|,     L_S = -L_G
    dL_G/dx ~ d/m sum_i (L_G(x + step u_i) - L_G(x)) / step * u_i,     |u_i| = 1, d = C H W

T is a log-probability less its mean over the classes, which is what centred logits are.

Departures
  The student is differentiated exactly, since it is here; only the teacher's part of the gradient
    is estimated, sample by sample, as `fedkd.synthesis.teacher_gradients.forward_differences` says.
  Images are moved as pixels and cut off at black and white; the paper moves what goes into the
    generator's last tanh.
  Every answer is kept and learned from again, by AdamW; in the paper each of five student steps
    for one of the generator's asks about images of its own. Answers about moved images teach the
    generator only, as there.
"""

from fedkd.core.schedules import FULL
from fedkd.losses import l1_centred, logit_discrepancy
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import GeneratorNetwork, TrainedGenerator, forward_differences

PAPER = "Truong et al., CVPR 2021 (arXiv 2011.14779)"


def dfme(
    *,
    directions: int = 1,
    step: float = 1e-3,
    latent: int = 256,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-4,
) -> Method:
    """DFME as a value.

    Args:
        directions: m >= 1, further questions about each image of a generator step.
        step: how far an image is moved, > 0, images in [0, 1].
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of the generator's Adam.
    """
    generator = TrainedGenerator(
        ((FULL, logit_discrepancy()),),
        forward_differences(directions, step),
        GeneratorNetwork(latent),
        generator_rate,
    )
    return Method(
        "dfme",
        PAPER,
        shares(generator, warm_up, generated),
        l1_centred,
    )
