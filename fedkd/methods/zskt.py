"""ZSKT. Zero-shot knowledge transfer via adversarial belief matching.

P. Micaelli, A. Storkey. NeurIPS 2019, arXiv 1905.09768.

The generator looks for images on which the student's belief is not the teacher's; the student
learns to share it there:

    L_G = -mean_b KL_b,     L_S = mean_b KL_b,
    KL_b = tau^2 KL(softmax(T(x_b) / tau) || softmax(S(x_b) / tau)),     tau = 1

Departures
  The attention term of the student, 250 times the distance of attention maps, is left out: it
    needs activations of every layer, and a student whose layers are those of its one teacher.
  ``gradient="student"`` is refused: with the student in the teacher's place they never disagree.
  Every answer is kept and learned from again, by AdamW; in the paper several student steps learn
    from the generator's last batch alone.
  The generator's rate stays as it is; the paper lets it fall to zero along a cosine, and clips
    the gradients of both networks.
"""

from typing import Literal, TypeAlias, get_args

from fedkd.core.schedules import FULL
from fedkd.losses import adversarial_kl, kl_divergence
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares, trained_by
from fedkd.synthesis import GeneratorNetwork, TrainedGenerator

PAPER = "Micaelli and Storkey, NeurIPS 2019 (arXiv 1905.09768)"
Way: TypeAlias = Literal["pull_back", "straight_through", "finite_differences"]


def zskt(
    gradient: Way = "pull_back",
    *,
    temperature: float = 1.0,
    latent: int = 100,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """ZSKT as a value.

    Args:
        gradient: where the generator's gradient comes from, see
            `fedkd.synthesis.teacher_gradients`.
        temperature: tau of both losses, > 0.
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of the generator's Adam.
    """
    generator = TrainedGenerator(
        ((FULL, adversarial_kl(temperature, masked=False)),),
        trained_by("zskt", gradient, get_args(Way)),
        GeneratorNetwork(latent),
        generator_rate,
        student_training=True,
    )
    return Method(
        "zskt",
        PAPER,
        shares(generator, warm_up, generated),
        kl_divergence(temperature),
    )
