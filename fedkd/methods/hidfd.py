"""HiDFD. Hybrid data-free knowledge distillation.

J. Tang, S. Chen, C. Gong. AAAI 2025, arXiv 2412.13525.

Some public samples show the teacher's classes, unlabelled; the teacher labels them. A
class-conditional generator and a discriminator learn from them, guided by the teacher; then the
student learns from public samples, repeated many times over, and from generated ones:

    L_D = hinge + CE(side(x), 2 c) + CE(side(g), 2 y + 1) + integration * sum_{a, b} |t(a) - d(b)|
    L_G = -D(g) + CE(side(g), 2 y) - CE(side(g), 2 y + 1) + frequency * category_frequency
    L_S = |P S_f - T_f|^2 / D,  S = W P S_f;  of several institutions: mean_c (S_c - T_c)^2

x is public, c what the teacher says it shows; g is generated and is to show y; a and b are x and g.
Feature integration (`fedkd.synthesis.auxiliary_networks.gan_discriminator`) and category frequency
smoothing (`fedkd.losses.class_prior`) are what the paper says: in its public code no gradient flows
through the one, and the weights of the other are never updated.

S_f and T_f, of which there are D, enter the last layers; P is the projector, W the teacher's
classifier (`fedkd.student.feature_alignment`). One institution that answers alone and releases its
features has this form.

What was seen is the public code, and what others say of the paper; its text was not at hand.

What cannot cross
  "The student shares the teacher's classifier": weights do not travel. Of one institution W follows
    from its features and logits by least squares. Of several the student's classifier is its own.
  "Its features are aligned with the teacher's": the last feature maps of institutions share no
    space in which they could be fused. With one classifier W on both sides features that agree give
    logits W f that agree, and those travel: the squared distance is of centred logits.
  "The discriminator stands on the teacher's backbone, and t(x) are its features": it is a network
    of its own here, t(x) are the ensemble's logits, and d(x) is its estimate of them. The teacher
    guides it through t, which is why the integration is not a mere regulariser.
  All else is asked and pulled back: labels of public samples, t(g), and the gradient of the
    category frequency through every institution.

Departures
  Features are compared after pooling, and P is linear, so that W P is the last layer of a student
    as it is; the paper aligns maps by three convolutions and keeps those. The discriminator and
    t(x) are what they are for several institutions, also for one.
  One batch serves discriminator and generator; the paper draws a new one for the latter.
  The generator is told its class beside the latent; the paper's BigGAN by its batch norms. It is
    ours, and so is the discriminator: both are small.
  Answers to the generator's first steps have been paid for: they enter the bank, and the student
    learns from them too. The generator's stage is half of the questions (``stage``).
  Counts of classes are averaged at every step rather than at every epoch.
  The student learns nothing in the first stage, so a rule judges by the features of its first
    weights: where a pool has junk, ``prototypes`` alone says something then.
  ``public_repeats`` is 10 as in the paper, where it makes half of all data public; choose it so.
  Images are not cropped or mirrored for the student, whose steps are AdamW's.
  Where institutions are fused by a pool, logits are logarithms of probabilities.
"""

from dataclasses import replace
from typing import Literal, TypeAlias, get_args

from fedkd.core.schedules import FULL, constant
from fedkd.errors import SettingsError
from fedkd.losses import (
    adversarial_realness,
    category_frequency,
    classwise_realness,
    nothing,
    squared_centred,
    weighted,
)
from fedkd.methods.method import Method, Share
from fedkd.methods.source_shares import shares, trained_by
from fedkd.student.feature_alignment import FeatureAlignment
from fedkd.synthesis import (
    Discriminator,
    GeneratorNetwork,
    PublicSamples,
    RememberedFeatures,
    TrainedGenerator,
    rule_named,
)

PAPER = "Tang et al., AAAI 2025 (arXiv 2412.13525)"
Way: TypeAlias = Literal["pull_back", "finite_differences"]


def hidfd(
    gradient: Way = "pull_back",
    *,
    classwise_weight: float = 1.0,
    frequency_weight: float = 0.1,
    integration_weight: float = 0.1,
    public_repeats: int = 10,
    public_selection: str | None = None,
    public_most: int | None = None,
    stage: float = 0.5,
    averaging: float = 0.99,
    averaging_from: int = 1000,
    latent: int = 128,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 2e-4,
    discriminator_rate: float = 2e-4,
) -> Method:
    """HiDFD as a value; it needs public samples, see ``images.public``.

    Args:
        gradient: where the gradient through the teachers comes from, see
            `fedkd.synthesis.teacher_gradients`. The student cannot stand for anybody, since it
            learns nothing until the generator is done.
        classwise_weight: of the classes of either side, for generator and discriminator, >= 0.
        frequency_weight: of the category frequency, >= 0; 0 asks for no gradient of a teacher.
        integration_weight: of the feature integration, >= 0.
        public_repeats: as how many samples of the bank each public one is drawn, >= 1.
        public_selection: rule by which public samples are chosen, see
            `fedkd.synthesis.public_pool.selection_rules`; None: all are asked about.
        public_most: samples that are chosen, >= 1, given exactly where there is a rule.
        stage: share of the questions in which generator and discriminator learn, in (0, 1).
        averaging: decay of the mean of the generator's weights that paints after that, in [0, 1).
        averaging_from: step of the generator from which that mean is taken, >= 0; its last weights
            paint where the stage is shorter.
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of the generator's Adam.
        discriminator_rate: of the discriminator's.

    Raises:
        SettingsError: a rule without the number of samples, or the other way round.
    """
    if (public_selection is None) != (public_most is None):
        raise SettingsError(
            f"hidfd: public_selection {public_selection} with public_most {public_most}; give both "
            "or neither"
        )
    betas = (0.0, 0.999)
    rule = None if public_selection is None else rule_named(public_selection)
    public = PublicSamples(public_repeats, rule, public_most)
    discriminator = Discriminator(
        public, discriminator_rate, betas, classwise_weight, integration_weight
    )
    generator = TrainedGenerator(
        weighted(
            (FULL, adversarial_realness(discriminator)),
            (constant(classwise_weight), classwise_realness(discriminator)),
            (constant(frequency_weight), category_frequency()),
        ),
        trained_by("hidfd", gradient, get_args(Way)),
        GeneratorNetwork(latent, True, averaging, averaging_from),
        generator_rate,
        betas,
        until=stage,
    )
    sources = {**shares(generator, warm_up, generated), "public": Share(public, None)}
    several = Method("hidfd", PAPER, sources, squared_centred, student_from=stage)
    alignment = FeatureAlignment()
    remembered = {
        name: Share(RememberedFeatures(spec, alignment), share)
        for name, (spec, share) in sources.items()
    }
    parts = {"alignment": alignment}
    alone = replace(several, sources=remembered, loss=nothing, student=parts)
    return replace(several, alone=alone)
