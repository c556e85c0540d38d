"""Data-free knowledge distillation for regression, of Zhou and Chiam.

"Synthetic data generation method for data-free knowledge distillation in regression neural
networks." T. Zhou, K.-H. Chiam. Expert Systems with Applications 2023, arXiv 2301.04338.

Rows are made where student and teacher predict different numbers, but not where the student's
number or the row itself is far out, so that the disagreement stays bounded:

    L_G = mean_b [-(T(x_b) - S(x_b))^2 + gamma S(x_b)^2] + beta sum_b |x_b|^2
    L_S = a (T(x_g) - S(x_g))^2 + (1 - a) (T(x_p) - S(x_p))^2

x_g is made by a generator network, or by direct optimisation: a batch begins as N(0, 1) and is
itself trained for a few steps. x_p is drawn without a generator; a falls linearly from 1 to 0.

Departures
  Outputs and columns are standardised as if they were uniform in the ranges that cards state. The
    paper takes mean and deviation of the training rows, which institutions would have to disclose.
  Rows are kept in those ranges: clamped, or by the generator's sigmoid. The paper has no ranges.
  The student kept is the last. The paper keeps the one with the least error on real rows.
  a is the generator's share of the questions; every answer is kept and learned from again, by the
    loss of `student.loss`. The paper draws x_g and x_p anew for each of ten student steps.
  x_p comes from the experiment's priors; ``rows.priors = ["gaussian"]`` is nearest to the paper.
  Answers alone are the default: the teachers' slope is had by finite differences, one further
    question for each row and step, since trees have no other. ``gradient="pull_back"`` is exact.
    With the student in the teacher's place both terms would cancel, so it cannot be chosen.
  Adam with momentum 0 stands for RMSprop, whose first steps are ten times its rate of 0.1: a whole
    standard deviation of a column, and here a third of one. Weight decay is left out.
  Each step of direct optimisation is a question, and what was answered on the way is kept; the
    last step of a batch is taken and not asked about, so that three make rows of 0, 1 and 2 steps.
  Columns with levels have no slope through a student that embeds them: there a row stays as drawn.
"""

from typing import Literal, TypeAlias, get_args

from fedkd.core.schedules import FULL, constant, ramp
from fedkd.errors import SettingsError
from fedkd.losses import (
    row_magnitude,
    squared_discrepancy,
    student_magnitude,
    weighted,
)
from fedkd.methods.method import Method, Share
from fedkd.methods.source_shares import trained_by
from fedkd.synthesis import GeneratorNetwork, ProceduralPriors, RowBatch, TrainedGenerator

PAPER = "Zhou and Chiam, Expert Systems with Applications 2023 (arXiv 2301.04338)"
Way: TypeAlias = Literal["finite_differences", "pull_back"]
Form: TypeAlias = Literal["direct", "generator"]


def dfkd_regression(
    gradient: Way = "finite_differences",
    *,
    form: Form = "direct",
    student_weight: float = 1e-5,
    row_weight: float = 1e-5,
    generated: float = 1.0,
    generated_last: float = 0.0,
    steps_per_batch: int = 3,
    latent: int = 50,
    generator_rate: float | None = None,
) -> Method:
    """The method as a value.

    Args:
        gradient: where the rows' gradient comes from, see `fedkd.synthesis.teacher_gradients`.
        form: "direct" trains rows themselves, "generator" a network that makes them.
        student_weight: gamma, of the student's squared number, >= 0.
        row_weight: beta, of the squared norm of the batch, >= 0.
        generated: a at the first question, in [0, 1].
        generated_last: a at the last one.
        steps_per_batch: of direct optimisation, >= 1; each is a question.
        latent: Z of the generator network.
        generator_rate: learning rate; None for 0.1 of rows, which of 0.03, 0.1 and 0.3 was closest
            to the ensemble on held-back questions of ``friedman``, and 1e-3 of a network.

    Raises:
        SettingsError: a form or share that there is not.
    """
    if form not in get_args(Form):
        raise SettingsError(f"dfkd_regression: form {form!r}; choose direct or generator")
    if not (0 <= generated <= 1 and 0 <= generated_last <= 1):
        raise SettingsError(
            f"dfkd_regression: shares {generated} and {generated_last}; expected both in [0, 1]"
        )
    direct = form == "direct"
    share = ramp(generated, generated_last, 0.0, 1.0)
    trained = TrainedGenerator(
        weighted(
            (FULL, squared_discrepancy()),
            (constant(student_weight), student_magnitude()),
            (constant(row_weight), row_magnitude()),
        ),
        trained_by("dfkd_regression", gradient, get_args(Way)),
        RowBatch(steps_per_batch) if direct else GeneratorNetwork(latent),
        (0.1 if direct else 1e-3) if generator_rate is None else generator_rate,
        betas=(0.0, 0.99),
    )
    return Method(
        "dfkd_regression",
        PAPER,
        {
            "prior": Share(ProceduralPriors(), lambda progress: 1.0 - share(progress)),
            "generator": Share(trained, share),
        },
    )
