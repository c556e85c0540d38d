"""KD3. Distribution-adaptive distillation on collected samples: choose, mix, contrast.

J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. ICCV 2023, arXiv 2307.11469.

Collected samples differ from the private ones, so the student learns only from those of which
teacher and student together are sure, with a lower bar for rare classes; and samples with another
one's mean and deviation are to look alike:

    o(x) = alpha T(x) + (1 - alpha) S(x)
    alpha = 1 - exp(-5 (1.5 p - 1)^2) for p < 1/2, and 0 after that; p: the student's progress
    x is learned where max_c softmax(o)_c > t_c,   t_c = .95 b_c / (2 - b_c)
    L_S = KL(softmax T / tau || softmax S / tau) + contrast * NT-Xent(h(S(x)), h(S(x')))

b_c is the number of samples predicted as c over that of the largest class. x' is x with channel
means and deviations mixed with those of another sample, the share drawn from Beta(.1, .1); h is a
linear embedding of 128. Thresholds and alpha are those of the public code (there: 240 epochs).

What cannot cross
  "The student's last feature map is taught the teacher's, weighted by the distance of their logits,
    and the teacher's classifier is the student's": features of several institutions share no space,
    and weights do not travel. The student learns logits, with a classifier of its own.
  "NT-Xent is over embeddings of student and teacher": the teachers' are not released; the student's
    alone.
  Selection and mixing cross whole. x' is never asked about: its target is that of x, for the
    contrast alone.

Departures
  The paper asks about all it collected. Here a random tenth is asked, then, in rounds, those for
    which the student alone (alpha = 0, since T(x) is not known yet) is most above its threshold.
  32 samples of a batch are contrasted, rather than all: each takes two passes more.
  Classes are counted over as many drawn samples as the bank holds, rather than over an epoch's set.
  Steps are AdamW's, of batches drawn with replacement. The surest sample of a batch is always kept.
  The paper reports the best epoch by test data; here it is the last.
"""

import math
from collections.abc import Mapping

from fedkd.core.interfaces import Spec, StudentPart
from fedkd.core.schedules import constant
from fedkd.errors import SettingsError
from fedkd.losses import kl_divergence
from fedkd.methods.method import Method, Share
from fedkd.student.confident_samples import ConfidentSamples
from fedkd.student.mixed_distribution_contrast import MixedDistributionContrast
from fedkd.synthesis import PublicSamples, rule_named

PAPER = "Tang et al., ICCV 2023 (arXiv 2307.11469)"


def teacher_share(progress: float) -> float:
    """alpha: 0.993 at first, 0.268 before half of the student's steps, 0 after that."""
    return 1 - math.exp(-5 * (1.5 * progress - 1) ** 2) if progress < 0.5 else 0.0


CHOICES: Mapping[str, tuple[str, Mapping[str, bool]]] = {
    "confident": ("threshold", {"reverse": False}),
    "reversed": ("threshold_reversed", {"reverse": True}),
    "all": ("random", {}),
}
"""By name: the rule by which samples are asked about, and whether the learned ones are the others;
nothing: all are learned."""


def kd3(
    *,
    choice: str = "confident",
    ceiling: float = 0.95,
    contrast_weight: float = 1e-3,
    first_share: float = 0.1,
    round_share: float = 0.05,
    temperature: float = 1.0,
) -> Method:
    """KD3 as a value; it needs public samples, see ``images.public``.

    Args:
        choice: confident; or a control: reversed, where samples below their threshold are asked
            and learned, or all, where samples are asked at random and all are learned.
        ceiling: threshold of the most frequent class, in (0, 1].
        contrast_weight: of the contrast, >= 0.
        first_share: of the questions, about samples drawn at random, in (0, 1].
        round_share: of the questions, after which the student judges anew, in (0, 1].
        temperature: of the divergence, > 0.

    Raises:
        SettingsError: a choice that is not there.
    """
    if choice not in CHOICES:
        raise SettingsError(f"kd3: choice {choice!r}; expected one of {', '.join(CHOICES)}")
    rule, learned = CHOICES[choice]
    public = PublicSamples(rule=rule_named(rule), first_share=first_share, round_share=round_share)
    student: dict[str, Spec[StudentPart]] = {"contrast": MixedDistributionContrast(contrast_weight)}
    if learned:
        student["confident"] = ConfidentSamples(teacher_share, ceiling, **learned)
    return Method(
        "kd3",
        PAPER,
        {"public": Share(public, constant(1.0))},
        kl_divergence(temperature),
        student=student,
    )
