"""CuDFKD. Dynamic data-free knowledge distillation by easy-to-hard learning strategy.

J. Li, S. Zhou, L. Li, H. Wang, Z. Yu, J. Bu. Information Sciences 642:119202, 2023;
first as "How to Teach: Learning Data-Free Knowledge Distillation from Curriculum", arXiv
2208.13648.

The generator is shown easy targets first, the student easy samples first:

    L_G(t) = one_hot + bn_gap + balance * class_balance + a(t) * adversarial_kl
    L_S(t) = mean_b v(l_b; lambda(t)) * l_b,  v(l; lambda) = (1 + e^-lambda) / (1 + e^(l - lambda))

where l_b = mean_c |S_c(x_b) - T_c(x_b)|, of centred logits: an offset of all classes decides
nothing, and fused answers have another than the student's. (The paper's KL scripts have l_b =
tau^2 KL(softmax(T / tau) || softmax(S / tau)); see ``distillation_loss``.) a(t), the adversarial
weight, ramps up between a quarter and three quarters of the generator's questions, and lambda(t)
rises until every sample counts. The teacher's argmax is its own label; adversarial_kl counts only
images on which teacher and student still decide alike.

Departures
  Logits only is the default. Most institutions will sign for answers, not for gradients; then
    no generator is trained, images are those of procedural priors
    (`fedkd.procedural.image_priors`), and of the paper the student's curriculum is left.
    ``gradient="pull_back"`` is the exact method.
  Every answer is kept and learned from again. The paper draws fresh images for each student
    step, ten times as many questions; ``Plan.capacity`` of a few batches comes near to that.
  The ramp follows the generator's own questions, so that it ends before they do.
  lambda is given at both ends of a run, not per step, since runs differ in length.
  Samples are weighed one by one, as the paper has it; ``whole_batch`` is the last public code.
  A run without a curriculum for the student keeps the generator's ramp; the two are apart here.
  Questions may be chosen, by ``candidates``, which is ours: what the student learns from is then of
    all its classes alike.
  class_balance is taken at temperature 1; the public code uses the temperature of distillation.
  L1 is of centred logits, the public code's of the logits themselves.
"""

from typing import Literal, TypeAlias

from fedkd.core.schedules import constant, ever, ramp
from fedkd.errors import SettingsError
from fedkd.losses import (
    adversarial_kl,
    bn_gap,
    class_balance,
    kl_divergence,
    loss_named,
    one_hot,
    weighted,
)
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.student.self_paced_curriculum import Curriculum, Kind
from fedkd.synthesis import NONE, PULL_BACK, GeneratorNetwork, TrainedGenerator, gradient_named

PAPER = "Li et al., Information Sciences 2023 (arXiv 2208.13648)"
Way: TypeAlias = Literal["none", "pull_back", "student", "straight_through", "finite_differences"]


def cudfkd(
    gradient: Way = "none",
    *,
    one_hot_weight: float = 1.0,
    bn_weight: float = 1.0,
    balance_weight: float = 20.0,
    adversarial_start: float = 0.0,
    adversarial_stop: float = 62.0,
    ramp_begin: float = 0.25,
    ramp_end: float = 0.75,
    adversarial_masked: bool = True,
    adversarial_ceiling: float | None = None,
    curriculum: Kind = "log",
    lambda_start: float = 2.0,
    lambda_stop: float = 12.0,
    whole_batch: bool = False,
    distillation_loss: str = "l1_centred",
    temperature: float = 4.0,
    latent: int = 512,
    warm_up: float = 0.0,
    generated: float = 1.0,
    evolved: float = 0.0,
    candidates: int = 1,
    generator_rate: float = 1e-3,
) -> Method:
    """CuDFKD as a value.

    Args:
        gradient: where the generator's gradient comes from, see
            `fedkd.synthesis.teacher_gradients`; "none" asks for logits only and trains no
            generator; all but it and "pull_back" need bn_weight 0.
        one_hot_weight: of the teacher's own decision, >= 0; the paper's, as are the next two.
        bn_weight: of the batch-norm gap, >= 0; 0 spares institutions the signal.
        balance_weight: of the class balance, >= 0.
        adversarial_start: adversarial weight before its ramp, >= 0.
        adversarial_stop: adversarial weight after it, >= 0; 62 is where CIFAR-10 ends.
        ramp_begin: where the ramp begins, a share of the generator's own questions.
        ramp_end: where it ends.
        adversarial_masked: only images on which student and teacher decide alike.
        adversarial_ceiling: most that one image adds to it, None for no limit.
        curriculum: self-paced weights: log (the paper's), soft, hard, none.
        lambda_start: lambda at the beginning, in units of the student's loss.
        lambda_stop: lambda at the end.
        whole_batch: one weight for a batch, as in the last public code.
        distillation_loss: the student's, see `fedkd.losses.distillation`.
        temperature: tau of the loss "kl", > 0; 20 in the paper's KL script for CIFAR-10, 2 for
            CIFAR-100.
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that.
        evolved: share of the prior's questions that the bank's evolution takes over.
        candidates: samples that priors draw for each that is asked about, >= 1; above 1 those are
            asked about whose class, as the student sees it, is rare among the answers.
        generator_rate: learning rate of the generator's Adam.

    Raises:
        SettingsError: an adversarial weight beside gradient "student", which would be identically
            zero.
    """
    how = gradient_named(gradient)
    adversarial = ramp(adversarial_start, adversarial_stop, ramp_begin, ramp_end)
    if how.believes_student and ever(adversarial):
        raise SettingsError(
            'cudfkd: with gradient "student" the student stands for the teacher, and cannot '
            "disagree with itself; choose another gradient, or set adversarial_start and "
            "adversarial_stop to 0"
        )
    terms = weighted(
        (constant(one_hot_weight), one_hot()),
        (constant(bn_weight), bn_gap()),
        (constant(balance_weight), class_balance()),
        (adversarial, adversarial_kl(3.0, adversarial_masked, adversarial_ceiling)),
    )
    generator, target = None, GeneratorNetwork(latent)
    if how is not NONE or terms:  # what is out of range is refused whether or not it is used
        by = PULL_BACK if how is NONE else how
        generator = TrainedGenerator(terms, by, target, generator_rate, betas=(0.9, 0.99))
    return Method(
        "cudfkd",
        PAPER,
        shares(None if how is NONE else generator, warm_up, generated, evolved, candidates),
        kl_divergence(temperature) if distillation_loss == "kl" else loss_named(distillation_loss),
        Curriculum(curriculum, lambda_start, lambda_stop, whole_batch),
        title=_title(curriculum) if how is NONE else "",
    )


def _title(curriculum: Kind) -> str:
    weighing = "no curriculum" if curriculum == "none" else f"self-paced weights: {curriculum}"
    return f"procedural samples, no generator ({weighing})"
