"""EmbedDistill. Distillation of embeddings, by relations of several teachers or towards one.

S. Kim, A. S. Rawat, M. Zaheer, S. Jayasumana, V. Sadhanala, W. Jitkrittum, A. K. Menon, R. Fergus,
S. Kumar. 2023, arXiv 2301.12005: an encoder of queries and documents learns the teacher's geometry,

    L_emb = 1/n sum_i |e_T(x_i) - P e_S(x_i)|_2,  P linear

and of an asymmetric student the teacher's document embeddings are kept and only the tower of
queries is learned. Of several institutions, whose spaces do not match, the mean relation is taught:

    R = mean_k N_k N_k^T, N_k rows of unit length;   L_rel = mean_(i != j) (cos(s_i, s_j) - R_ij)^2

or KL of the rows' softmaxes of R / tau, tau = 0.1, the diagonal left out.

What was seen: the abstract, and embedding matching as sentence-transformers has it (l2 is the
paper's). The relational form, its losses and tau are our reading of section 3.2's federated case in
our notes, not the paper's. Of the table of results only the 95 to 97 % of the abstract were read.

What cannot cross
  The losses of scores and of the task: they need pairs of queries and documents with labels.
  Generated queries by a language model: priors and the bank's evolution stand in their place.

Departures
  P is the student's last layer, so that the student outputs what the kept gallery is compared to.
  Each sample is asked about once, its answer is kept, and a step takes samples of one question.
"""

from typing import Literal, TypeAlias

from fedkd.aggregation.embedding_fusion import MEAN_FEATURES, MEAN_RELATIONS
from fedkd.aggregation.fusion_rule_spec import ByRule
from fedkd.errors import SettingsError
from fedkd.losses import embedding_distance, relation_kl, relation_squared
from fedkd.methods.method import Method, Share
from fedkd.methods.source_shares import shares
from fedkd.protocol import Signal
from fedkd.synthesis import PublicSamples

PAPER = "Kim et al., 2023 (arXiv 2301.12005)"
Form: TypeAlias = Literal["relations", "asymmetric"]
RelationLoss: TypeAlias = Literal["squared", "kl"]


def embed_distill(
    form: Form = "relations",
    *,
    loss: RelationLoss = "squared",
    temperature: float = 0.1,
    evolved: float = 0.0,
    gallery: bool = False,
) -> Method:
    """EmbedDistill as a value; teachers output an embedding.

    Args:
        form: "relations" of any number of institutions; "asymmetric" learns one institution's space
            itself, so that its gallery embeddings can be kept.
        loss: of relations: "squared" difference, or "kl" of the rows' softmaxes.
        temperature: tau of the softmaxes, > 0.
        evolved: share of the questions that are children of banked samples, in [0, 1].
        gallery: whether ``images.public`` is asked about first. Asymmetric, its embeddings are kept
            in the run's folder: they are what the student's are searched in.

    Raises:
        SettingsError: another form or loss, or a temperature that is not above 0.
    """
    if form not in ("relations", "asymmetric") or loss not in ("squared", "kl"):
        raise SettingsError(
            f"embed_distill: form {form!r} and loss {loss!r}; expected relations or asymmetric, "
            "and squared or kl"
        )
    if not temperature > 0:
        raise SettingsError(f"embed_distill: temperature {temperature}; expected more than 0")
    sources = shares(None, evolved=evolved)
    if gallery:
        sources["gallery"] = Share(PublicSamples(), None)
    if form == "asymmetric":
        return Method(
            "embed_distill",
            PAPER,
            sources,
            embedding_distance,
            aggregation=ByRule(MEAN_FEATURES),
            answers=Signal.FEATURES,
        )
    return Method(
        "embed_distill",
        PAPER,
        sources,
        relation_squared if loss == "squared" else relation_kl(temperature),
        aggregation=ByRule(MEAN_RELATIONS),
        answers=Signal.RELATIONS,
    )
