"""DAFL. Data-free learning of student networks.

H. Chen, Y. Wang, C. Xu, Z. Yang, C. Liu, B. Shi, C. Xu, C. Xu, Q. Tian. ICCV 2019, arXiv
1904.01186.

The generator is judged by the teacher alone; whatever makes the teacher sure, of every class
alike, is taken to look like what it was trained on:

    L_G = one_hot + balance * class_balance + activation_weight * activation
    L_S = tau^2 KL(softmax(T / tau) || softmax(S / tau)),     tau = 1

Departures
  activation is -mean |f(x)|, computed at each institution, and the mean of several; its weight is
    0.1 in the paper and 0 by default here, where no institution has to release the signal.
  class_balance is in nats; the public code takes the logarithm to base 10, which divides the
    weight by 2.3.
  ``gradient="student"`` is ours: the terms are read off the student, and nothing is asked for it.
  The generator's rate suits our generator; the paper's, 0.02 and 0.2, is for another network.
  Every answer is kept and learned from again, by AdamW; in the paper a student step learns from
    the generator's last batch.
"""

from typing import Literal, TypeAlias, get_args

from fedkd.core.schedules import constant
from fedkd.losses import activation, class_balance, kl_divergence, one_hot, weighted
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares, trained_by
from fedkd.synthesis import GeneratorNetwork, TrainedGenerator

PAPER = "Chen et al., ICCV 2019 (arXiv 1904.01186)"
Way: TypeAlias = Literal["pull_back", "student", "straight_through", "finite_differences"]


def dafl(
    gradient: Way = "pull_back",
    *,
    one_hot_weight: float = 1.0,
    balance_weight: float = 5.0,
    activation_weight: float = 0.0,
    temperature: float = 1.0,
    latent: int = 100,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """DAFL as a value.

    Args:
        gradient: where the generator's gradient comes from, see
            `fedkd.synthesis.teacher_gradients`.
        one_hot_weight: of the teacher's own decision, >= 0; 0.05 in the public code for CIFAR.
        balance_weight: of the class balance, >= 0.
        activation_weight: of the teacher's activation, >= 0; 0.1 in the paper; 0 spares
            institutions the signal. Above 0 only pull_back will do.
        temperature: tau of the student's loss, > 0.
        latent: Z; the paper's for MNIST, 1000 for CIFAR.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of the generator's Adam.
    """
    generator = TrainedGenerator(
        weighted(
            (constant(one_hot_weight), one_hot()),
            (constant(balance_weight), class_balance()),
            (constant(activation_weight), activation()),
        ),
        trained_by("dafl", gradient, get_args(Way)),
        GeneratorNetwork(latent),
        generator_rate,
    )
    return Method(
        "dafl",
        PAPER,
        shares(generator, warm_up, generated),
        kl_divergence(temperature),
    )
