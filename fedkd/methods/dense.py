"""DENSE. Data-free one-shot federated learning.

J. Zhang, C. Chen, B. Li, L. Lyu, S. Wu, S. Ding, C. Shen, C. Wu. NeurIPS 2022, arXiv 2112.12371.

The teacher is the mean of the clients' logits. For each batch a generator and its latents begin
anew and are trained together, until the ensemble sees the wanted classes at the batch-norm
statistics of all clients, where student and ensemble decide differently:

    L_G = CE(T(x), y) + bn * bn_gap + adversarial * boundary_support,     T = mean_k T_k
    L_S = tau^2 KL(softmax(T / tau) || softmax(S / tau)),     tau = 20

What cannot cross: the paper's server is sent the clients' models, once. Here it never has them; an
ensemble's answers are fused from its members', a loss of theirs is pulled back through each, and
bn_gap is computed at each institution. Nothing of the two losses is left out.

Departures
  Each step of a batch is a question, and is paid for: the paper's are free. What institutions
    answer on the way is kept and learned from; the paper keeps the step of the lowest loss. The
    last step of a batch is taken and not asked about.
  The paper's public code shows the ensemble each batch rolled and mirrored; here it is asked as it
    is. ``jitter`` and ``flips`` bring that back.
  Layers begin as PyTorch makes them, rather than from N(0, 0.02).
  Steps of the student are AdamW's, on the bank as it grows; the paper runs through all of its pool
    after each batch, by SGD.
  Institutions with different classes have no mean of logits: name another ``questions.rule`` there.
"""

from fedkd.aggregation.fusion_rule_spec import ByRule
from fedkd.core.schedules import FULL, constant
from fedkd.losses import bn_gap, boundary_support, kl_divergence, target_class, weighted
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import PULL_BACK, LatentBatch, TrainedGenerator

PAPER = "Zhang et al., NeurIPS 2022 (arXiv 2112.12371)"


def dense(
    *,
    bn_weight: float = 1.0,
    adversarial_weight: float = 1.0,
    steps_per_batch: int = 30,
    temperature: float = 20.0,
    latent: int = 256,
    jitter: float = 0.0,
    flips: bool = False,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-3,
) -> Method:
    """DENSE as a value.

    Args:
        bn_weight: of the batch-norm gap, >= 0; 0 spares institutions the signal.
        adversarial_weight: of the boundary support, >= 0.
        steps_per_batch: steps spent on a batch, >= 1; each is a question.
        temperature: tau of the student's loss, > 0.
        latent: Z.
        jitter: most by which images are rolled, in sides, in [0, 1].
        flips: whether they are mirrored, half of the time; not for digits or letters.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of Adam, of generator and latents.
    """
    generator = TrainedGenerator(
        weighted(
            (FULL, target_class()),
            (constant(bn_weight), bn_gap()),
            (constant(adversarial_weight), boundary_support()),
        ),
        PULL_BACK,
        LatentBatch(steps_per_batch, jitter, flips, latent),
        generator_rate,
        (0.5, 0.999),
    )
    return Method(
        "dense",
        PAPER,
        shares(generator, warm_up, generated),
        kl_divergence(temperature),
        aggregation=ByRule("mean_logits"),
    )
