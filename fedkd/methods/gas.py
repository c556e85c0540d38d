"""GAS. Policy distillation without a simulator, by a data generator for each action.

J. Raiman. "Generative adversarial simulator." 2020, arXiv 2011.11472.

A generator that is judged by the teacher alone ends at one prototype of a class, and a policy is
known by one observation of an action as little. So each action has a generator of its own, which
seeks observations where the teacher takes that action and the student does not believe it yet, and
all generators begin anew again and again, so that each time they find others:

    L_G = CE(T(G_y(z)), y) - adversarial * tau^2 KL(softmax(T / tau) || softmax(S / tau))
    L_S = tau^2 KL(softmax(T / tau) || softmax(S / tau)),     tau = 1

Departures
  Only the abstract was at hand: a data generator for each output class, initialised anew, and an
    adversarial loss, to find as many exemplars of a class as possible. Both equations, their
    weights, and after how many steps generators begin anew are our reading.
  Every answer is kept and learned from again, by AdamW; what the paper keeps is not known.
  Rows are kept in the ranges that cards state, by the generator's sigmoid.
  ``gradient="student"`` is refused: with the student in the teacher's place they never disagree.
"""

from typing import Literal, TypeAlias, get_args

from fedkd.core.schedules import FULL, constant
from fedkd.losses import adversarial_kl, kl_divergence, target_class, weighted
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares, trained_by
from fedkd.synthesis import GeneratorPerClass, TrainedGenerator

PAPER = "Raiman 2020 (arXiv 2011.11472)"
Way: TypeAlias = Literal["pull_back", "straight_through", "finite_differences"]


def gas(
    gradient: Way = "pull_back",
    *,
    adversarial_weight: float = 1.0,
    temperature: float = 1.0,
    steps_per_generator: int = 5,
    latent: int = 16,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-2,
) -> Method:
    """GAS as a value.

    Args:
        gradient: where the generators' gradient comes from, see
            `fedkd.synthesis.teacher_gradients`.
        adversarial_weight: of the divergence of student from teacher, >= 0.
        temperature: tau of both divergences, > 0.
        steps_per_generator: before all generators begin anew, >= 1; each is a question.
        latent: Z.
        warm_up: share of the questions that go to priors before the generators may ask.
        generated: share of the questions that are the generators' after that; the paper has all.
        generator_rate: learning rate of the generators' Adam.
    """
    generator = TrainedGenerator(
        weighted(
            (FULL, target_class()),
            (constant(adversarial_weight), adversarial_kl(temperature, masked=False)),
        ),
        trained_by("gas", gradient, get_args(Way)),
        GeneratorPerClass(latent, steps_per_generator),
        generator_rate,
    )
    return Method(
        "gas",
        PAPER,
        shares(generator, warm_up, generated),
        kl_divergence(temperature),
    )
