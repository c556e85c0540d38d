"""IDEAL. Query-efficient data-free learning from black-box models.

J. Zhang, C. Chen, L. Lyu. ICLR 2023, arXiv 2205.11158.

The student stands for the teacher while images are invented, which is free; the teacher only says
what they show, once. Each batch has a generator of its own, begun anew, and latents, which stay as
they are drawn. What is asked about are the images of the step whose loss was least:

    L_G = CE(S(G(z)), y) + balance * class_balance,     y of all classes alike
    L_S = CE(S(x), argmax T(x))

Departures
  Institutions release class scores; the coordinator takes their argmax.
    ``distillation_loss="kl"`` learns from the scores.
  An image is asked about once. The public code asks again at every epoch about all images so far,
    turned and cut at random: fifty times as many questions as the paper counts.
  class_balance is of the batch's mean prediction, as the paper says; its public code takes the
    entropy image by image.
  The student sees generated images as they are while the generator learns, not cut or mirrored.
  Steps of the student are AdamW's, on the bank as it grows.
"""

from fedkd.core.schedules import FULL, constant
from fedkd.losses import class_balance, loss_named, target_class, weighted
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import STUDENT, LatentBatch, SurrogateTrained

PAPER = "Zhang et al., ICLR 2023 (arXiv 2205.11158)"


def ideal(
    *,
    balance_weight: float = 5.0,
    generator_steps: int = 30,
    distillation_loss: str = "cross_entropy",
    latent: int = 256,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """IDEAL as a value.

    Args:
        balance_weight: of the class balance, >= 0.
        generator_steps: for each question, >= 1; nobody is asked in them.
        distillation_loss: the student's, see `fedkd.losses.distillation`.
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of the generator's Adam.
    """
    generator = SurrogateTrained(
        weighted(
            (FULL, target_class()),
            (constant(balance_weight), class_balance()),
        ),
        STUDENT,
        LatentBatch(latent=latent, latents_learn=False),
        generator_rate,
        (0.5, 0.999),
        surrogate_steps=generator_steps,
        keeps_best=True,
    )
    return Method(
        "ideal",
        PAPER,
        shares(generator, warm_up, generated),
        loss_named(distillation_loss),
    )
