"""DFAD. Data-free adversarial distillation.

G. Fang, J. Song, C. Shen, X. Wang, D. Chen, M. Song. arXiv 1912.11006, 2019.

The generator drives student and teacher apart in their logits, where an error keeps its slope
however small or sure it is; the student closes the gap:

    L_G = -mean_b mean_c |S_c(x_b) - T_c(x_b)|,     L_S = -L_G

Departures
  Logits are centred first, in both losses. Fused answers of several teachers are log-probabilities,
    whose offset is not that of the student's logits and decides nothing.
  ``gradient="student"`` is refused: with the student in the teacher's place they are never apart.
  Every answer is kept and learned from again, by AdamW; in the paper each of five student steps
    for one of the generator's draws images of its own.
"""

from typing import Literal, TypeAlias, get_args

from fedkd.core.schedules import FULL
from fedkd.losses import l1_centred, logit_discrepancy
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares, trained_by
from fedkd.synthesis import GeneratorNetwork, TrainedGenerator

PAPER = "Fang et al., 2019 (arXiv 1912.11006)"
Way: TypeAlias = Literal["pull_back", "straight_through", "finite_differences"]


def dfad(
    gradient: Way = "pull_back",
    *,
    latent: int = 256,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """DFAD as a value.

    Args:
        gradient: where the generator's gradient comes from, see
            `fedkd.synthesis.teacher_gradients`.
        latent: Z; the public code's for CIFAR, 100 for MNIST.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of the generator's Adam.
    """
    generator = TrainedGenerator(
        ((FULL, logit_discrepancy()),),
        trained_by("dfad", gradient, get_args(Way)),
        GeneratorNetwork(latent),
        generator_rate,
        student_training=True,
    )
    return Method(
        "dfad",
        PAPER,
        shares(generator, warm_up, generated),
        l1_centred,
    )
