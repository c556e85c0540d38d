"""DIP-KD, built from its paper's text, without its code.

"Diverse image priors for black-box data-free knowledge distillation."
T.-N. Vo, D. Nguyen, T. Le, K. Do, S. Gupta. ICCCI 2026, arXiv 2604.25794.

No generator and no gradient of a teacher, hard labels only. Images are drawn from priors (`scales`,
all warped and mixed) and labelled; a primer S0 learns them; then, in the eyes of the primer, images
are moved apart (`fedkd.synthesis.contrastive_sample_source`) and labelled in their turn; last, the
student learns the labels and, for all that labels do not say, the primer's logits:

    L_S0 = CE(S0(x), argmax T(x)),     L_S = CE(S(x), argmax T(x)) + soft * mean_c |S_c - S0_c|

Departures
  Institutions release class scores, and the coordinator takes their argmax: no signal of theirs is
    the label alone. ``distillation_loss="kl"`` learns from the scores; the paper cannot.
  An image that was moved is another image and is asked about. The paper counts images, not
    questions, so that a budget here is twice as many as there; both versions stay in the bank.
  The primer has the student's architecture and first weights. How long it learns, the steps and
    the rate of the contrast, and the views of an image are ours: the paper does not print them,
    and no code of it was at hand, which would settle them.
  `scales` has sharper weights and more contrast than the paper's noise, and masks are blobs of a
    cloud rather than noise that was blurred and sharpened. `priors` of the experiment are used,
    whichever they are; ``digits-dip_kd`` names those of the paper.
"""

from fedkd.core.schedules import constant, ramp
from fedkd.losses import loss_named
from fedkd.methods.method import Method, Share
from fedkd.student.primer_student import Primer
from fedkd.synthesis import ContrastiveSamples, ProceduralPriors

PAPER = "Vo et al., ICCCI 2026 (arXiv 2604.25794)"


def dip_kd(
    *,
    primed: float = 0.5,
    primer_steps: float = 1.0,
    soft_weight: float = 1.0,
    contrast_steps: int = 10,
    contrast_rate: float = 0.01,
    distillation_loss: str = "cross_entropy",
) -> Method:
    """DIP-KD as a value.

    Args:
        primed: share of the questions about priors' own images, in (0, 1); the primer learns then.
        primer_steps: steps of the primer for each of the student's, > 0; beyond its plan.
        soft_weight: of the primer's logits in the student's loss, >= 0.
        contrast_steps: steps in which a batch is moved apart, >= 1.
        contrast_rate: of pixels and discriminator in them, > 0, images in [0, 1].
        distillation_loss: of student and primer, see `fedkd.losses.distillation`.
    """
    contrast = ramp(0.0, 1.0, primed, primed)
    primer = Primer(primed, primer_steps, constant(soft_weight))
    moved = ContrastiveSamples(primer, contrast_steps, contrast_rate)
    return Method(
        "dip_kd",
        PAPER,
        {
            "prior": Share(ProceduralPriors(), lambda p: 1.0 - contrast(p)),
            "contrast": Share(moved, contrast),
        },
        loss_named(distillation_loss),
        student={"primer": primer},
        student_from=primed,
    )
