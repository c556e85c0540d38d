"""TA-DFKD. Teacher as a lenient expert: teacher-agnostic data-free knowledge distillation.

H. Shin, D.-W. Choi. AAAI 2024, arXiv 2402.12406.

The teacher does not tell the generator which class to draw; it only throws out what it does not
know. Of each batch those images are selected that belong to the surer of two groups of answers
(`fedkd.aggregation.sample_selection`); they alone teach the student, and count in the adversarial
term:

    L_G = (1 - JS(S, T)) + bn * bn_gap + tv * total_variation + l2 * l2_norm
    L_S = mean_b mean_c |S_c(x_b) - T_c(x_b)|,      x_b selected

JS is at temperature 3 and, as in the public code, a mean over classes as well as images.

Departures
  The public code shows cropped and mirrored views to teacher and student, and measures bn_gap on
    those of selected images alone. Here an image is asked about once, as it is, and bn_gap is of
    the whole batch: institutions compute it, before it is known what is selected.
  Logits are centred in L_S: an offset of all classes decides nothing.
  A batch of the student is drawn from all selected images so far, and AdamW takes its steps; the
    paper draws anew until a batch is full. Images thrown out have cost a question all the same.
  Without bn_weight nothing but smoothness is left of what makes images look real.
"""

from fedkd.aggregation.sample_selection import confident
from fedkd.core.schedules import FULL, constant
from fedkd.losses import bn_gap, jensen_shannon, l1_centred, l2_norm, total_variation, weighted
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import PULL_BACK, GeneratorNetwork, TrainedGenerator

PAPER = "Shin and Choi, AAAI 2024 (arXiv 2402.12406)"


def ta_dfkd(
    *,
    bn_weight: float = 10.0,
    tv_weight: float = 1.5e-5,
    l2_weight: float = 6e-3,
    threshold: float = 0.5,
    latent: int = 1000,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """TA-DFKD as a value.

    Args:
        bn_weight: of the batch-norm gap, >= 0; 0 spares institutions the signal.
        tv_weight: of the total variation, >= 0.
        l2_weight: of the images' norm, >= 0.
        threshold: posterior of the surer group above which an image is selected, in [0, 1).
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of the generator's Adam.
    """
    generator = TrainedGenerator(
        weighted(
            (FULL, jensen_shannon(3.0, over_classes=True)),
            (constant(bn_weight), bn_gap()),
            (constant(tv_weight), total_variation()),
            (constant(l2_weight), l2_norm()),
        ),
        PULL_BACK,
        GeneratorNetwork(latent),
        generator_rate,
        student_training=True,
    )
    return Method(
        "ta_dfkd",
        PAPER,
        shares(generator, warm_up, generated),
        l1_centred,
        selection=confident(threshold),
    )
