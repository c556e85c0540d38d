"""CMI. Contrastive model inversion for data-free knowledge distillation.

G. Fang, J. Song, X. Wang, C. Shen, X. Wang, M. Song. IJCAI 2021, arXiv 2105.08584.

Every batch has latents and a generator of its own, begun anew. Inversion alone paints much the same
image again and again; so each is to be told, by a view of a part of it, from all others, of its
batch and of batches before (`fedkd.synthesis.auxiliary_networks.instance_discriminator`):

    L_G = bn * bn_gap + one_hot * CE(T(G(z)), y) + adversarial * adversarial_kl
          + contrast * instance_discrimination
    instance_discrimination = mean_i CE(v_i . V / tau', i),     v, V = |h(f(view of x))|, |h(f(x))|
    L_S = tau^2 KL(softmax(T / tau) || softmax(S / tau)),     tau = 20

f is the teacher of one institution that answers alone and releases its features; a view of each
image is asked about besides. Otherwise f is the student, what enters its last layer.

y is of all classes alike; h, two layers, learns with the images; adversarial_kl is at temperature 1
and counts only images on which teacher and student still decide alike.

Departures
  Features of several institutions share no space, so there f is the student; logits, bn_gap and
    their gradients cross the boundary. The student changes, so images are remembered and not
    their features, and looked at again.
  With the teacher's features f is what enters its last layer; in the paper, the means of the
    channels of every layer together. Each step takes two questions and two pull-backs then.
    What was seen is the public code: where it goes on from views, which side has no slope, how
    current and earlier images are weighed. Its text was not at hand.
  V is of the image as it was asked about; the public code has a wider-framed crop of it there too.
  Each step is a question, and what is answered on the way is learned from; the paper keeps of a
    batch only the images of least loss, after 200 steps. ``steps_per_batch`` is to be small.
    Remembered are the images of a batch's last question; the step after it is not asked about.
  What is asked about is rolled as one, where the paper cuts each image elsewhere out of a wider
    frame; views are squares, and not mirrored.
  Steps of the student are AdamW's, on the bank as it grows.
"""

from dataclasses import replace
from typing import TypeAlias

from fedkd.core.schedules import constant
from fedkd.losses import (
    adversarial_kl,
    bn_gap,
    instance_discrimination,
    kl_divergence,
    target_class,
    weighted,
)
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import (
    PULL_BACK,
    InstanceDiscriminator,
    LatentBatch,
    TeacherInstanceDiscriminator,
    TrainedGenerator,
)

_Kind: TypeAlias = type[InstanceDiscriminator] | type[TeacherInstanceDiscriminator]
PAPER = "Fang et al., IJCAI 2021 (arXiv 2105.08584)"


def cmi(
    *,
    bn_weight: float = 1.0,
    one_hot_weight: float = 1.0,
    adversarial_weight: float = 0.5,
    contrast_weight: float = 0.8,
    contrast_temperature: float = 0.2,
    negatives: int = 4096,
    bank_size: int = 40_960,
    steps_per_batch: int = 200,
    jitter: float = 0.125,
    flips: bool = True,
    temperature: float = 20.0,
    latent: int = 256,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """CMI as a value.

    Args:
        bn_weight: of the batch-norm gap, >= 0; 0 spares institutions the signal.
        one_hot_weight: of the wanted class, >= 0.
        adversarial_weight: of the disagreement of student and teacher, >= 0.
        contrast_weight: of the instance discrimination, >= 0.
        contrast_temperature: tau' of similarities, > 0; 0.1 or 0.2 in the public code.
        negatives: images of earlier batches in a step, >= 0.
        bank_size: most images of earlier batches, >= 1.
        steps_per_batch: steps spent on a batch, >= 1; each is a question.
        jitter: most by which images are rolled, in sides, in [0, 1].
        flips: whether they are mirrored, half of the time; not for digits or letters.
        temperature: tau of the student's loss, > 0.
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of Adam, of generator, latents and h.
    """

    def form(kind: _Kind) -> Method:
        apart = kind(contrast_temperature, negatives, bank_size, 256, generator_rate, crop=0.25)
        contrast = instance_discrimination(apart, kind is TeacherInstanceDiscriminator)
        generator = TrainedGenerator(
            weighted(
                (constant(bn_weight), bn_gap()),
                (constant(one_hot_weight), target_class()),
                (constant(adversarial_weight), adversarial_kl(1.0)),
                (constant(contrast_weight), contrast),
            ),
            PULL_BACK,
            LatentBatch(steps_per_batch, jitter, flips, latent),
            generator_rate,
            (0.5, 0.999),
        )
        sources = shares(generator, warm_up, generated)
        return Method("cmi", PAPER, sources, kl_divergence(temperature))

    return replace(form(InstanceDiscriminator), alone=form(TeacherInstanceDiscriminator))
