"""DisGUIDE. Disagreement-guided data-free model extraction.

J. Rosenthal, E. Enouen, H. V. Pham, L. Tan. AAAI 2023.

Black-box: the teacher answers, and nothing of it is differentiated. Two students learn from the
same answers. Where they disagree one of them is wrong, so the generator seeks that out, and asks
nobody for it:

    L_G = -mean_b mean_c std_m softmax(S_m(x_b))_c + diversity * sum_c p(c) log p(c)
    L_S = mean_b mean_c |S_c(x_b) - T_c(x_b)|, for each of the students

where p is the mean of all students over the batch. With scores, T is a log-probability less its
mean over the classes, which is what centred logits are; ``distillation_loss="cross_entropy"`` is
the paper's other variant, which learns from the label alone.

Departures
  The bank is the paper's replay of old answers: all of them, or as many as ``Plan.capacity``. A
    student's batch is drawn from it; the paper takes one step on the newest batch for each three
    on replayed ones.
  One student is left, the first; the paper lets all of them vote.
  Every eighth image is grey in the paper, to try out colours that belong together; not here.
  Institutions release class scores; the label variant takes their argmax.
  Steps are AdamW's, with our generator; the paper's are SGD's.
"""

from fedkd.core.schedules import FULL, constant
from fedkd.errors import SettingsError
from fedkd.losses import class_balance, disagreement, loss_named, weighted
from fedkd.methods.method import Method
from fedkd.methods.source_shares import shares
from fedkd.student.peer_students import Peers
from fedkd.synthesis import STUDENT, GeneratorNetwork, SurrogateTrained

PAPER = "Rosenthal et al., AAAI 2023"


def disguide(
    *,
    diversity_weight: float = 0.2,
    students: int = 2,
    generator_steps: int = 1,
    distillation_loss: str = "l1_centred",
    latent: int = 256,
    warm_up: float = 0.0,
    generated: float = 1.0,
    generator_rate: float = 1e-4,
) -> Method:
    """DisGUIDE as a value.

    Args:
        diversity_weight: of the class balance in the students' eyes, >= 0; the paper's for ten
            classes.
        students: that are compared, >= 2; the first is the one that is left.
        generator_steps: for each question, >= 1; nobody is asked in them.
        distillation_loss: the students', see `fedkd.losses.distillation`.
        latent: Z.
        warm_up: share of the questions that go to priors before the generator may ask.
        generated: share of the questions that are the generator's after that; the paper has all.
        generator_rate: learning rate of the generator's Adam.

    Raises:
        SettingsError: fewer than two students, who cannot disagree.
    """
    if students < 2:
        raise SettingsError(f"disguide: {students} students cannot disagree; expected >= 2")
    peers = Peers(students - 1)
    generator = SurrogateTrained(
        weighted(
            (FULL, disagreement(peers)),
            (constant(diversity_weight), class_balance()),
        ),
        STUDENT,
        GeneratorNetwork(latent),
        generator_rate,
        surrogate_steps=generator_steps,
        voters=peers,
    )
    return Method(
        "disguide",
        PAPER,
        shares(generator, warm_up, generated),
        loss_named(distillation_loss),
        student={"peers": peers},
    )
