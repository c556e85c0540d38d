"""Group-stack dual-GAN. Data-free knowledge amalgamation via group-stack dual-GAN.

J. Ye, Y. Ji, X. Wang, X. Gao, M. Song. CVPR 2020, arXiv 2003.09088. A third party's transcription
of the equations was read, the paper's text was not: what follows is our reading.

M teachers know labels of their own of the same kind of image, and one student learns all of them.
A generator is judged by the teachers' answers y, t_i = [y_i >= 1/2]:

    L_gan = CE(y, t) + alpha * L_act + beta * L_ie + gamma * mean_i |y_i|

Over institutions: each names its *tasks* on its card; answers are fused within a task, and nothing
is fused across. The student has a head for each task, side by side. m counts tasks:

    L_G = task_one_hot + beta * task_balance + gamma * task_sparsity
    L_S = mean_b sum_m tau^2 KL(softmax(T_m / tau) || softmax(S_m / tau))

What cannot cross
  The group-stack discriminator: for group j of the generator, the last j blocks of every frozen
    teacher. Handing out blocks is handing out the model, so the generator is trained as one piece,
    on images, through pull-back.
  Dual: the second generator, image -> labels, trained block by block on features of teacher
    filters and then regrouped into the student. The student learns from answers as a whole.
  L_act, the activation of features: they tell more of a network than its answers do.

Departures
  Answers alone are the default, and images are those of procedural priors. ``gradient="pull_back"``
    trains the generator; it then has its share of the questions, and priors have the rest.
  A task is a softmax over its classes; a label that may hold beside others is a task of two
    classes. So t is the decision, and |y_i| counts what is not decided for.
  The student learns from probabilities by KL, not from labels by cross-entropy.
  Every answer is kept and learned from again.
  With one task, the generator's terms are those of DAFL and the sparsity.
"""

from typing import Literal, TypeAlias

from fedkd.core.schedules import constant
from fedkd.losses import kl_divergence, task_balance, task_one_hot, task_sparsity, weighted
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import NONE, PULL_BACK, GeneratorNetwork, TrainedGenerator, gradient_named

PAPER = "Ye et al., CVPR 2020 (arXiv 2003.09088)"
Way: TypeAlias = Literal["none", "pull_back", "student", "straight_through", "finite_differences"]


def group_stack(
    gradient: Way = "none",
    *,
    one_hot_weight: float = 1.0,
    balance_weight: float = 5.0,
    sparsity_weight: float = 1.0,
    temperature: float = 4.0,
    latent: int = 100,
    warm_up: float = 0.2,
    generated: float = 0.5,
    generator_rate: float = 1e-3,
) -> Method:
    """Group-stack dual-GAN as a value, as far as it crosses the wire.

    Args:
        gradient: where the generator's gradient comes from, see
            `fedkd.synthesis.teacher_gradients`; "none" asks for logits only and trains none.
        one_hot_weight: of each task's own decision, >= 0.
        balance_weight: beta, of each task's class balance, >= 0; DAFL's.
        sparsity_weight: gamma, >= 0.
        temperature: tau of the student's loss, > 0.
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that.
        generator_rate: learning rate of the generator's Adam.
    """
    how = gradient_named(gradient)
    terms = weighted(
        (constant(one_hot_weight), task_one_hot()),
        (constant(balance_weight), task_balance()),
        (constant(sparsity_weight), task_sparsity()),
    )
    generator, target = None, GeneratorNetwork(latent)
    if how is not NONE or terms:  # what is out of range is refused whether or not it is used
        by = PULL_BACK if how is NONE else how
        generator = TrainedGenerator(terms, by, target, generator_rate)
    return Method(
        "group_stack",
        PAPER,
        shares(None if how is NONE else generator, warm_up, generated),
        kl_divergence(temperature),
    )
