"""DeepInversion and Adaptive DeepInversion: pixels optimised to match batch-norm statistics.

"Dreaming to distill: data-free knowledge transfer via DeepInversion."
H. Yin, P. Molchanov, J. M. Alvarez, Z. Li, A. Mallya, D. Hoiem, N. K. Jha, J. Kautz. CVPR 2020,
arXiv 1912.08795.

No generator: the pixels of a batch are trained until the teacher sees the classes that were wanted
in them, at the batch-norm statistics of what it was trained on; then another batch begins:

    L_x = CE(T(x), y) + bn * bn_gap + tv * total_variation + l2 * l2_norm + adversarial * (1 - JS)
    L_S = tau^2 KL(softmax(T / tau) || softmax(S / tau)),     tau = 3

x is rolled and mirrored at random before each step. With an ``adversarial_weight`` this is Adaptive
DeepInversion, where student and teacher shall disagree.

Departures
  Each step is a question: an institution sees every state of an image, and is paid for each. What
    it answers on the way is kept and learned from; the paper keeps the last state alone. Two
    thousand steps to a batch are therefore out of reach, and ``steps_per_batch`` is to be small;
    the last step of a batch is taken and not asked about.
  Images begin as noise around grey: mean and deviation of the training data are nobody's to know.
    The paper's begin as noise of these two, see ``first_mean``.
  Weights and rate are the second of the two recipes for CIFAR-10 in the README of the public code,
    the one of better images: bn 10, tv 1e-3, l2 0, rate 0.1. (The first, the paper's, has tv 2.5e-5
    and rate 0.05.) Pixels lie in [0, 1], where a unit of normalised images is 1/4: so the rate is
    0.025, and terms of pixels are measured in those units (`fedkd.losses.image_prior`).
  tau is that of the public code as far as it is remembered.
  Steps of the student are AdamW's, on the bank as it grows.
"""

from fedkd.core.schedules import FULL, constant
from fedkd.losses import (
    PIXEL_DEVIATION,
    bn_gap,
    jensen_shannon,
    kl_divergence,
    l2_norm,
    target_class,
    total_variation,
    weighted,
)
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import PULL_BACK, PixelBatch, TrainedGenerator

PAPER = "Yin et al., CVPR 2020 (arXiv 1912.08795)"


def deepinversion(
    *,
    adversarial_weight: float = 0.0,
    bn_weight: float = 10.0,
    tv_weight: float = 1e-3,
    l2_weight: float = 0.0,
    steps_per_batch: int = 2000,
    jitter: float = 0.125,
    flips: bool = True,
    first_mean: float = 0.5,
    first_deviation: float = 0.5,
    temperature: float = 3.0,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 0.1 * PIXEL_DEVIATION,
) -> Method:
    """DeepInversion as a value; with an ``adversarial_weight``, Adaptive DeepInversion.

    Args:
        adversarial_weight: of the disagreement of student and teacher, >= 0.
        bn_weight: of the batch-norm gap, >= 0; 0 spares institutions the signal.
        tv_weight: of the total variation, >= 0.
        l2_weight: of the images' norm, >= 0.
        steps_per_batch: steps spent on a batch, >= 1; each is a question.
        jitter: most by which images are rolled, in sides, in [0, 1].
        flips: whether they are mirrored, half of the time; not for digits or letters.
        first_mean: of the noise with which a batch begins, images in [0, 1]; the training data's in
            the paper.
        first_deviation: of this noise, >= 0; likewise.
        temperature: tau of the student's loss, > 0.
        warm_up: share of the questions that go to priors first.
        generated: share of the questions that are about trained images after that.
        generator_rate: learning rate of the pixels' Adam, images in [0, 1].
    """
    generator = TrainedGenerator(
        weighted(
            (FULL, target_class()),
            (constant(bn_weight), bn_gap()),
            (constant(tv_weight), total_variation()),
            (constant(l2_weight), l2_norm()),
            (constant(adversarial_weight), jensen_shannon(3.0)),
        ),
        PULL_BACK,
        PixelBatch(steps_per_batch, jitter, flips, mean=first_mean, deviation=first_deviation),
        generator_rate,
        (0.5, 0.99),
    )
    return Method(
        "deepinversion",
        PAPER,
        shares(generator, warm_up, generated),
        kl_divergence(temperature),
    )
