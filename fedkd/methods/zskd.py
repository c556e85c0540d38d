"""ZSKD. Zero-shot knowledge distillation in deep networks.

G. K. Nayak, K. R. Mopuri, V. Shaj, R. V. Babu, A. Chakraborty. ICML 2019, arXiv 1905.08114.

What a teacher says of real images is modelled first: for class k it is drawn from a Dirichlet
distribution around the classes that look like k. Then images begin as noise, and their pixels are
trained until the teacher says what was drawn. These data impressions teach the student:

    y ~ Dir(beta * C_k),     C_kj: how alike classes k and j are, stretched to [0, 1] in each row
    L_x = CE(softmax(T(x) / tau), y),     beta 1 or 0.1, half of the images each
    L_S = tau^2 KL(softmax(T / tau) || softmax(S / tau)),     tau = 20

What cannot cross: the paper takes C from the teacher's weights, as the cosine of rows of its last
layer. Weights do not travel, and institutions have rows in spaces of their own. Here C is
estimated from answers: the first batches want one class each, as DeepInversion's do, and row k is
the mean of what is said, softened by tau, of images that were made to show k. That is what the
paper itself says a row of weights stands for: features in its direction are the class's template,
and what the last layer says of them are the products of that row with all the others.

Departures
  Those first batches are ours, and ``first_images`` says how many images of a class they take.
  Each step is a question, and is paid for: an institution sees every state of an image. What it
    answers on the way is kept and learned from; the paper keeps the last state alone. Its 1,500
    steps to a batch are therefore out of reach, and ``steps_per_batch`` is to be small with a large
    ``generator_rate``; the last step of a batch is taken and not asked about.
  Several teachers are one by the mean of their logits.
  Images begin as noise around grey, of all intensities; pixels are cut off rather than stretched.
  No augmented impressions, with which the paper trains again.
  Steps of the student are AdamW's, on the bank as it grows.
"""

from fedkd.aggregation.fusion_rule_spec import ByRule
from fedkd.core.schedules import FULL
from fedkd.losses import kl_divergence, target_class
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import PULL_BACK, DataImpressions, TrainedGenerator

PAPER = "Nayak et al., ICML 2019 (arXiv 1905.08114)"


def zskd(
    *,
    scales: tuple[float, ...] = (1.0, 0.1),
    temperature: float = 20.0,
    first_images: int = 1,
    steps_per_batch: int = 1500,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """ZSKD as a value.

    Args:
        scales: beta, > 0; images of a batch take them in turn.
        temperature: tau, of images, student and similarity, > 0.
        first_images: of each class, >= 1, made to show it before targets are drawn.
        steps_per_batch: steps spent on a batch, >= 1; each is a question.
        warm_up: share of the questions that go to priors first.
        generated: share of the questions that are about trained images after that.
        generator_rate: learning rate of the pixels' Adam.
    """
    generator = TrainedGenerator(
        ((FULL, target_class(temperature)),),
        PULL_BACK,
        DataImpressions(
            steps_per_batch, scales=tuple(scales), temperature=temperature, first=first_images
        ),
        generator_rate,
    )
    return Method(
        "zskd",
        PAPER,
        shares(generator, warm_up, generated),
        kl_divergence(temperature),
        aggregation=ByRule("mean_logits"),
    )
