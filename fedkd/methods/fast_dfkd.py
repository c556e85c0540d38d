"""Fast-DFKD. Up to 100x faster data-free knowledge distillation.

G. Fang, K. Mo, X. Wang, J. Song, S. Bei, H. Zhang, M. Song. AAAI 2022, arXiv 2112.06253.

Every batch has latents and a generator of its own, as in model inversion. But the generator does
not begin at random: it begins where a meta-generator stands, which learns from each batch how to
begin better, so that a handful of steps does for a batch (`fedkd.synthesis.meta_initialisation`):

    L_G = bn * bn_gap + one_hot * CE(T(G(z)), y) + adversarial * adversarial_kl,    y of all classes
    meta-generator: one step of Adam along the sum of the batch's gradients, or towards its end
    L_S = tau^2 KL(softmax(T / tau) || softmax(S / tau)),     tau = 20

adversarial_kl counts only images on which teacher and student still decide alike, at temperature
1, and begins with the student.

Departures
  Each step is a question, and what is answered on the way is learned from; the paper keeps of a
    batch only the images of least loss. The last step of a batch is taken and not asked about.
  bn_gap is of each batch alone. The paper mixes in a moving mean of earlier batches' statistics,
    which institutions compute and would have to remember between questions.
  Images are rolled as one where the paper cuts each elsewhere out of a wider frame.
  The first layer of the meta-generator is not begun anew after 120 batches.
  Steps of the student are AdamW's, on the bank as it grows.
"""

from typing import Literal

from fedkd.core.schedules import constant, ramp
from fedkd.errors import SettingsError
from fedkd.losses import adversarial_kl, bn_gap, kl_divergence, target_class, weighted
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import PULL_BACK, MetaLatentBatch, TrainedGenerator

PAPER = "Fang et al., AAAI 2022 (arXiv 2112.06253)"
PULL = 67.0
"""How hard a batch's end pulls in the public code's Reptile."""


def fast_dfkd(
    *,
    bn_weight: float = 10.0,
    one_hot_weight: float = 0.5,
    adversarial_weight: float = 1.33,
    steps_per_batch: int = 5,
    meta_update: Literal["fomaml", "reptile"] = "fomaml",
    student_from: float = 0.09,
    latent_rate: float = 0.01,
    jitter: float = 0.125,
    flips: bool = True,
    temperature: float = 20.0,
    latent: int = 256,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 3e-3,
) -> Method:
    """Fast-DFKD as a value.

    Args:
        bn_weight: of the batch-norm gap, >= 0; 0 spares institutions the signal.
        one_hot_weight: of the wanted class, >= 0.
        adversarial_weight: of the disagreement of student and teacher, >= 0.
        steps_per_batch: steps spent on a batch, >= 1; each is a question. 2, 5 and 10 in the paper.
        meta_update: what the meta-generator follows: "fomaml", the sum of a batch's gradients, or
            "reptile", the way to where it ended.
        student_from: share of the questions before the student begins, in [0, 1); 20 of 220 epochs.
        latent_rate: of a batch's latents, > 0.
        jitter: most by which images are rolled, in sides, in [0, 1].
        flips: whether they are mirrored, half of the time; not for digits or letters.
        temperature: tau of the student's loss, > 0.
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: of a batch's generator; the meta-generator's is ``steps_per_batch`` times as
            high.

    Raises:
        SettingsError: another word than those.
    """
    if meta_update not in ("fomaml", "reptile"):
        raise SettingsError(f"fast_dfkd: meta_update {meta_update!r}; expected fomaml or reptile")
    # The adversary begins with the student, told in the generator's own questions.
    begins = max(0.0, student_from - warm_up) / (1.0 - warm_up) if warm_up < 1 else 1.0
    target = MetaLatentBatch(
        *(steps_per_batch, jitter, flips, latent),
        meta_rate=generator_rate * steps_per_batch,
        latent_rate=latent_rate,
        betas=(0.5, 0.999),
        reptile=PULL if meta_update == "reptile" else None,
    )
    generator = TrainedGenerator(
        weighted(
            (constant(bn_weight), bn_gap()),
            (constant(one_hot_weight), target_class()),
            (ramp(0.0, adversarial_weight, begins, begins), adversarial_kl(1.0)),
        ),
        PULL_BACK,
        target,
        generator_rate,
        (0.5, 0.999),
    )
    return Method(
        "fast_dfkd",
        PAPER,
        shares(generator, warm_up, generated),
        kl_divergence(temperature),
        student_from=student_from,
    )
