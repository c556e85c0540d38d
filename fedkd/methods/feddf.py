"""FedDF. Ensemble distillation on unlabelled public samples, without any choice among them.

T. Lin, L. Kong, S. U. Stich, M. Jaggi. NeurIPS 2020, arXiv 2006.07242.

    L_S = KL(softmax(mean_t T_t(x)) || softmax S(x)), x drawn at random of the public samples

Departures
  The paper fuses the institutions' weights in every round and begins the student there. Weights do
    not travel: there is one round, and the student begins anew.
  The paper stops where a validation set says so; here no data are at hand, and the steps are set.
  Each sample is asked about once, its answer is kept. Steps are AdamW's.
"""

from fedkd.aggregation.fusion_rule_spec import ByRule
from fedkd.core.schedules import constant
from fedkd.losses import kl_divergence
from fedkd.methods.method import Method, Share
from fedkd.synthesis import PublicSamples, rule_named

PAPER = "Lin et al., NeurIPS 2020 (arXiv 2006.07242)"


def feddf(*, temperature: float = 1.0) -> Method:
    """FedDF as a value; it needs public samples, see ``images.public``.

    Args:
        temperature: of the divergence, > 0.
    """
    public = PublicSamples(rule=rule_named("random"), first_share=1.0)
    return Method(
        "feddf",
        PAPER,
        {"public": Share(public, constant(1.0))},
        kl_divergence(temperature),
        aggregation=ByRule("mean_logits"),
    )
