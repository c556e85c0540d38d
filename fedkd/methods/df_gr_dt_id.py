"""DF-GR and DT-ID. Class-incremental learning by dual-teacher distillation and generative replay.

Y. Choi, M. El-Khamy, J. Lee: "Dual-teacher class-incremental learning with data-free generative
replay". CVPR Workshops 2021, arXiv 2106.09835.

A student that has learned some classes goes on to others, and those who taught it the first are
asked no more. It is copied and frozen: the earlier student T_old, which lies at the coordinator
and costs nothing. DF-GR trains a generator on T_old alone, to replay the old classes; DT-ID
distils two teachers into one student, T_old and the one of the new classes, T_new, which is here
the fused answer of the institutions that are there:

    L_G = bn * sum_layers |mu - mu(x)| + |var - var(x)| + one_hot * CE(T_old(x), argmax T_old(x))
          + balance * sum_c p(c) log p(c),   x = G(z), p = mean_b softmax(T_old(x_b))
    L_S = old * KL_tau(T_old(x) || S_old(x)) + new * KL_tau(T_new(x) || S_new(x))
          + level * (mean S_old(x) - mean S_new(x))^2 / 2

S_old and S_new are the student's outputs of the old and of the new classes, each with a softmax of
its own, and KL_tau is tau^2 KL at temperature tau. No divergence minds the level of one slice
against the other, which decides between an old and a new class; so both are held at the same mean.
The student begins as the earlier student, with new outputs beside the old ones. A run is given an
earlier student by ``--grow RUN``.

``target`` chooses what stands in the place of the two slices: "all", one target of all classes,
each slice with a mean of zero, and the distance of centred logits; "raw", the same of both
teachers' logits as they are.

Departures
  Of the paper only the abstract was at hand: the losses are our reading of it, and the weights are
    ours. So is the level of the two slices, without which a seed may favour old or new classes. Its
    terms on features, by a variational bound of mutual information, are left out.
  The paper has the data of the new classes, and learns from them beside the teachers. Here there
    are none: procedural priors stand for both, and every sample is asked of both teachers.
  The paper measures batch-norm statistics by the divergence of two Gaussians, as in
    `fedkd.methods.dfq`; here it is their distance.
  Steps are AdamW's, from the bank. Answers that the earlier run got are not used again: a finished
    run keeps no samples, and the earlier student, which learned them, may be asked anything.
"""

from typing import Literal, TypeAlias

from fedkd.aggregation import WithEarlierStudent
from fedkd.core.schedules import constant
from fedkd.core.task import Loss
from fedkd.errors import SettingsError
from fedkd.losses import (
    PerSlice,
    bn_gap,
    class_balance,
    kl_divergence,
    l1_centred,
    one_hot,
    weighted,
)
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.synthesis import EARLIER_STUDENT, GeneratorNetwork, SurrogateTrained

PAPER = "Choi et al., CVPR Workshops 2021 (arXiv 2106.09835)"
Target: TypeAlias = Literal["slices", "all", "raw"]


def df_gr_dt_id(
    *,
    target: Target = "slices",
    temperature: float = 4.0,
    old_weight: float = 1.0,
    new_weight: float = 1.0,
    level_weight: float = 1.0,
    bn_weight: float = 1.0,
    one_hot_weight: float = 1.0,
    balance_weight: float = 5.0,
    generator_steps: int = 5,
    latent: int = 64,
    generated: float = 0.25,
    generator_rate: float = 1e-3,
) -> Method:
    """DF-GR and DT-ID as a value; it goes on with an earlier student.

    Args:
        target: see above.
        temperature: tau of both slices, > 0.
        old_weight: of the old classes' slice, >= 0; 0: nothing is replayed.
        new_weight: of the new classes' slice, >= 0.
        level_weight: of the slices' common level, >= 0; without effect where a slice weighs 0.
        bn_weight: of the batch-norm gap, >= 0; 0 where the earlier student has no batch norm.
        one_hot_weight: of the earlier student's own decision, >= 0.
        balance_weight: of the class balance, >= 0.
        generator_steps: for each question, >= 1; nobody is asked in them.
        latent: Z.
        generated: share of the questions that are the generator's; the rest are the priors'.
        generator_rate: learning rate of the generator's Adam.

    Raises:
        SettingsError: an unknown target.
    """
    losses: dict[str, Loss] = {
        "slices": PerSlice(kl_divergence(temperature), (old_weight, new_weight), level_weight),
        "all": l1_centred,
        "raw": l1_centred,
    }
    if target not in losses:
        raise SettingsError(f"unknown target {target!r}; choose one of {', '.join(losses)}")
    generator = SurrogateTrained(
        weighted(
            (constant(bn_weight), bn_gap()),
            (constant(one_hot_weight), one_hot()),
            (constant(balance_weight), class_balance()),
        ),
        EARLIER_STUDENT,
        GeneratorNetwork(latent),
        generator_rate,
        surrogate_steps=generator_steps,
    )
    return Method(
        "df_gr_dt_id",
        PAPER,
        shares(generator, 0.0, generated),
        losses[target],
        aggregation=WithEarlierStudent(level="raw" if target == "raw" else "centred"),
    )
