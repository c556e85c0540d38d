"""Co-Boosting. Enhancing one-shot federated learning through data and ensemble co-boosting.

R. Dai, Y. Zhang, A. Li, T. Liu, X. Yang, B. Han. ICLR 2024, arXiv 2402.15070.

Images and ensemble make one another better. A generator, begun anew for each batch, draws images
that are hard for the ensemble and for the student; each is moved along a random slope of the
ensemble to a neighbour that is harder still; on what was drawn so far the weights of the
institutions are learned anew; with them answers are fused from then on, and those of before anew:

    T = sum_k w_k T_k / sum_k w_k
    L_G = mean_b (1 - p_b) CE(T(x_b), y_b) - adversarial * 9 KL(softmax(T / 3) || softmax(S / 3))
    x' = x + step sign(d <u, softmax(T(x) / 4)> / d x),     u uniform in [-1, 1]
    w <- clip(w - mu decay^epoch sign(d CE(T(x), y) / d w), 0, 1),     w = 1 / T at first
    L_S = tau^2 KL(softmax(T(x') / tau) || softmax(S(x') / tau)),     tau = 4

What cannot cross: the paper's server is sent the clients' models, once. Here it never has them.
Weights are the server's own and are learned from answers alone; slopes are pulled back. Nothing of
the losses is left out, but each of them is of images that were asked about.

Departures
  Each step of a batch is a question, each neighbour another, and each slope is pulled back: the
    paper's are free. So every batch is moved once, as it is asked about, and not every image of
    the pool before every step of the student. What institutions answer on the way is learned
    from as well; the paper's student sees neighbours alone.
  Weights are learned on the last state that was asked about of each batch; the paper's pool has
    the state of the lowest loss. ``decay`` counts batches, as there.
  The gradient of the generator is not clipped: Adam does not mind its scale.
  Layers begin as PyTorch makes them, rather than from N(0, 0.02).
  Steps of the student are AdamW's, on batches of the bank.
  Whoever is away for a question weighs nothing in it; whoever joins late begins at one share.
    Institutions with different classes have no mean of logits, and no weights by this paper.
"""

from fedkd.aggregation.learned_weights import LearnedWeights
from fedkd.core.schedules import FULL, constant
from fedkd.losses import PIXEL_DEVIATION, adversarial_kl, hard_class, kl_divergence, weighted
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import PULL_BACK, LatentBatch, OutputDiversified, TrainedGenerator

PAPER = "Dai et al., ICLR 2024 (arXiv 2402.15070)"


def co_boosting(
    *,
    adversarial_weight: float = 1.0,
    difficulty_power: float = 1.0,
    steps_per_batch: int = 30,
    step: float = 8 / 255 * PIXEL_DEVIATION,
    weight_rate: float = 0.01,
    weight_decay: float = 0.99,
    temperature: float = 4.0,
    latent: int = 256,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """Co-Boosting as a value.

    Args:
        adversarial_weight: of the disagreement of student and ensemble, >= 0.
        difficulty_power: power of 1 - p in the weight of an image, >= 0.
        steps_per_batch: steps spent on a batch, >= 1; each is two questions.
        step: by which each pixel moves to a neighbour, in (0, 1]; 8/255 of the normalised images of
            the public code, which is 2/255 of ours.
        weight_rate: mu, by which a weight moves for each batch of 128, > 0.
        weight_decay: of mu, by batches of the generator, in (0, 1].
        temperature: tau of the student's loss, > 0.
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of Adam, of generator and latents.
    """
    generator = TrainedGenerator(
        weighted(
            (FULL, hard_class(difficulty_power)),
            (constant(adversarial_weight), adversarial_kl(3.0, masked=False)),
        ),
        PULL_BACK,
        LatentBatch(steps_per_batch, latent=latent),
        generator_rate,
        (0.5, 0.999),
    )
    return Method(
        "co_boosting",
        PAPER,
        shares(OutputDiversified(generator, step, 4.0), warm_up, generated),
        kl_divergence(temperature),
        aggregation=LearnedWeights(weight_rate, weight_decay),
    )
