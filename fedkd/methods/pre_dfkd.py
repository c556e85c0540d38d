"""PRE-DFKD. Data-free knowledge distillation by generative pseudo replay.

K. Binici, S. Aggarwal, N. T. Pham, K. Leman, T. Mitra: "Robust and resource-efficient data-free
knowledge distillation by generative pseudo replay". AAAI 2022, arXiv 2201.03019.

A generator moves on, and a student that keeps no images forgets what it drew before. So a
variational auto-encoder learns whatever was asked about, and replays it
(`fedkd.synthesis.generative_replay.student_taught_vae`):

    L_G = one_hot + balance * class_balance + activation_weight * activation + (1 - JS(S, T))
    L_memory = |D(z) - x| + |T(D(z)) - T(x)| + 1e-5 KL(code of x || N(0, 1)),   z of the code of x
    L_S = mean_b mean_c |S_c(x_b) - T_c(x_b)|,      x_b drawn anew or from memory

What is painted from memory begins as z ~ N(0, 1) that takes one step on one_hot + balance *
class_balance + |mean z|^2 + |var z - 1|^2. JS is at temperature 3, a mean over classes as well as
images, and the teacher's part of it has no slope.

T in memory is one institution that answers alone and pulls back
(`fedkd.synthesis.generative_replay.teacher_taught_vae`): what is decoded is asked about too, logits
alone, and features are not needed. For several it is the student, since every image of every step
of the memory's would be asked of each.

What was seen is the public code, and the abstract; the paper's text was not at hand.

Departures
  With the teacher in memory each painted image takes four questions and three gradients: z as drawn
    and as stepped, and two images that the auto-encoder decodes, in the proportion of the public
    code. Those of z enter the bank, and what enters it is learned by the memory, its own with it.
  With the student in memory what is painted is asked about like any other image.
  The bank keeps images too, which the paper does without; ``Plan.capacity`` of a few batches is the
    paper's case, and ``digits-pre_dfkd`` is run so. A batch enters memory whole, once, and not half
    of it; the memory learns from what was new whenever it is to draw.
  The activation term weighs 0 by default, as in `fedkd.methods.dafl`; class_balance is in nats, not
    in logarithms to base 10.
  Logits are centred in L_S: an offset of all classes decides nothing.
  Rates suit our networks. The paper's generator has spectral norms and learns at 0.02, its memory
    at a fortieth of that.
"""

from dataclasses import replace
from typing import Literal, TypeAlias, get_args

from fedkd.core.schedules import FULL, constant, ramp
from fedkd.errors import SettingsError
from fedkd.losses import (
    activation,
    class_balance,
    jensen_shannon,
    loss_named,
    one_hot,
    weighted,
)
from fedkd.methods.method import Method, Share
from fedkd.methods.source_shares import shares, trained_by
from fedkd.synthesis import GenerativeReplay, GeneratorNetwork, TeacherReplay, TrainedGenerator

PAPER = "Binici et al., AAAI 2022 (arXiv 2201.03019)"
Way: TypeAlias = Literal["pull_back", "finite_differences"]


def pre_dfkd(
    gradient: Way = "pull_back",
    *,
    one_hot_weight: float = 1.0,
    balance_weight: float = 5.0,
    activation_weight: float = 0.0,
    replayed: float = 1 / 9,
    replay_steps: int = 1,
    replay_rate: float = 5e-4,
    replay_latent_rate: float = 0.02,
    distillation_loss: str = "l1_centred",
    latent: int = 1000,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """PRE-DFKD as a value.

    Args:
        gradient: where the generator's gradient comes from, see
            `fedkd.synthesis.teacher_gradients`.
        one_hot_weight: of the teacher's own decision, >= 0.
        balance_weight: of the class balance, >= 0; here and in memory.
        activation_weight: of the teacher's activation, >= 0; 0.1 in the paper; 0 spares
            institutions the signal.
        replayed: share of the generator's questions that are about images from memory, in [0, 1);
            the paper has one for eight new ones.
        replay_steps: of the auto-encoder, for each batch that was asked about, >= 1; by the
            teacher's answers, for each batch that is replayed.
        replay_rate: of its Adam, > 0.
        replay_latent_rate: of the step by which z becomes something to replay, > 0.
        distillation_loss: the student's, see `fedkd.losses.distillation`.
        latent: Z, of generator and memory.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's and the memory's after that; the
            paper has all.
        generator_rate: learning rate of the generator's Adam.

    Raises:
        SettingsError: a share that is none.
    """
    if not 0 <= replayed < 1:
        raise SettingsError(f"pre_dfkd: {replayed} replayed; expected a share in [0, 1)")
    generator = TrainedGenerator(
        weighted(
            (constant(one_hot_weight), one_hot()),
            (constant(balance_weight), class_balance()),
            (constant(activation_weight), activation()),
            (FULL, jensen_shannon(3.0, over_classes=True, held=True)),
        ),
        trained_by("pre_dfkd", gradient, get_args(Way)),
        GeneratorNetwork(latent),
        generator_rate,
        student_training=True,
    )
    both = ramp(0.0, generated, warm_up, warm_up)

    def form(kind: type[GenerativeReplay]) -> Method:
        memory = kind(
            latent, replay_steps, replay_rate, replay_latent_rate, balance_weight, prior_weight=1e-5
        )
        sources = shares(generator, warm_up, generated)
        sources["generator"] = Share(generator, lambda p: both(p) * (1.0 - replayed))
        sources["replay"] = Share(memory, lambda p: both(p) * replayed)
        return Method("pre_dfkd", PAPER, sources, loss_named(distillation_loss))

    several = form(GenerativeReplay)
    if not (generator.gradient.pulls_back and replayed):
        return several
    return replace(several, alone=form(TeacherReplay))
