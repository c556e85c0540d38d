"""RDSKD. Robustness and diversity seeking data-free knowledge distillation.

P. Han, J. Park, S. Wang, Y. Liu. ICASSP 2021, arXiv 2011.03749.

First the generator learns from the teacher alone, then it is frozen and the student learns from
what it draws. Of its three terms none has a weight; the exponentials pull hardest at whichever
became worse since the epoch before:

    L_G = exp(one_hot - one_hot') + exp(class_balance - class_balance') + mode_seeking
    L_S = tau^2 KL(softmax(T / tau) || softmax(S / tau)),     tau = 10

where the primes are of the second step of an epoch, 0 before there was one.

Departures
  Answers to the generator's first steps have been paid for: they enter the bank, and the student
    learns from them too. The paper throws them away.
  The generator's stage is half of the questions; in the paper it is 2 % of them, which in runs of
    ours would be a handful of steps. ``capture_interval`` may have to shrink with it.
  The last layer is our generator's sigmoid; the paper has tanh and a batch norm without weights.
    mode_seeking is measured in units of normalised images all the same; `fedkd reproduce rdskd` has
    the paper's last layer.
  Gradients may also come through differences of answers, which the paper does not consider.
  Steps are AdamW's, on batches of the bank.
"""

from typing import Literal, TypeAlias, get_args

from fedkd.core.schedules import FULL
from fedkd.losses import class_balance, kl_divergence, mode_seeking, one_hot, penalised
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares, trained_by
from fedkd.synthesis import GeneratorNetwork, TrainedGenerator

PAPER = "Han et al., ICASSP 2021 (arXiv 2011.03749)"
Way: TypeAlias = Literal["pull_back", "finite_differences"]


def rdskd(
    gradient: Way = "pull_back",
    *,
    stage: float = 0.5,
    capture_interval: int = 120,
    temperature: float = 10.0,
    latent: int = 100,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """RDSKD as a value.

    Args:
        gradient: where the generator's gradient comes from, see
            `fedkd.synthesis.teacher_gradients`. The student cannot stand for anybody, since it
            learns nothing until the generator is done.
        stage: share of the questions in which the generator learns, in (0, 1).
        capture_interval: generator steps after which its terms are measured against a newer past,
            >= 1; an epoch in the paper.
        temperature: tau of the student's loss, > 0.
        latent: Z; the paper's for MNIST, 1000 for CIFAR.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of the generator's Adam.
    """
    generator = TrainedGenerator(
        (
            (FULL, penalised(one_hot(), capture_interval)),
            (FULL, penalised(class_balance(), capture_interval)),
            (FULL, mode_seeking()),
        ),
        trained_by("rdskd", gradient, get_args(Way)),
        GeneratorNetwork(latent),
        generator_rate,
        until=stage,
    )
    return Method(
        "rdskd",
        PAPER,
        shares(generator, warm_up, generated),
        kl_divergence(temperature),
        student_from=stage,
    )
