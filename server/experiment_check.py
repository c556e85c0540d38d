"""Check of an experiment before there is any institution, and before its folder is made."""

from fedkd.aggregation.embedding_fusion import EMBEDDING_RULES, ROWS
from fedkd.aggregation.fusion_rules import RULES
from fedkd.aggregation.number_fusion import NUMBER_RULES
from fedkd.core.device import Compute
from fedkd.errors import SettingsError
from fedkd.experiment import Experiment
from fedkd.methods import Method, make
from fedkd.models import check_student_name
from fedkd.procedural import check_prior
from fedkd.protocol import Card
from fedkd.server.coordinator import Coordinator, ingredients
from fedkd.server.run.earlier_run import earlier_run
from fedkd.server.run.public_data_loading import check_public_data
from fedkd.wire.grpc_channels import host_of


def check_experiment(experiment: Experiment) -> None:
    """Check all that is known of an experiment before institutions are.

    Where ``[expect]`` names classes and a shape, all that a run builds is built once for them.

    Raises:
        SettingsError: an unknown network, method, prior, rule or device, an argument that the
            method does not know, photographs of a prior that are not installed, public samples
            missing or in vain, or parts that do not fit.
        DataError: public samples that are not there, or an earlier run that cannot be read.
    """
    check_student_name(experiment.student.model)
    if (run := earlier_run(experiment.grow)) is not None:
        run.student()
    method = make(experiment.method.name, experiment.method.arguments)
    for name in (*experiment.images.priors, *experiment.rows.priors):
        check_prior(name, experiment.images.warp, experiment.images.mix)
    _check_public_data(experiment, method)
    rule = method.rule_for(experiment.questions.rule)
    if rule not in ("auto", *RULES, *NUMBER_RULES, *EMBEDDING_RULES):
        raise SettingsError(f"unknown rule {rule!r}; choose auto or one of {', '.join(RULES)}")
    Compute.of(experiment.student.device, experiment.student.precision)
    host_of(experiment.questions.address)
    if (card := _expected_card(experiment, method)) is not None:
        check_start(experiment, [card])


def check_start(experiment: Experiment, cards: list[Card]) -> None:
    """Build all that a run builds before its first question, for institutions with these cards.

    Raises:
        SettingsError: parts do not fit each other or these institutions.
        NeedsError: the method asks for what they refuse.
        DataError: public samples cannot be read.
    """
    Coordinator(ingredients(experiment, cards), cards, lambda request: ({}, {}))


def _check_public_data(experiment: Experiment, method: Method) -> None:
    needed = method.needs.public_data
    method.check_public_data(bool(experiment.images.public_names))
    if needed:
        check_public_data(experiment.images)


def _expected_card(experiment: Experiment, method: Method) -> Card | None:
    """The least that an institution of ``[expect]`` releases; None where that tells too little."""
    classes, shape = experiment.expect.classes, experiment.expect.shape
    if classes is None or shape is None or shape[:2] == (1, 1):  # rows, of unknown columns
        return None
    names = classes if isinstance(classes, tuple) else None
    count = classes if isinstance(classes, int) else len(classes)
    return Card(
        "an expected institution",
        count,
        shape,
        frozenset({method.answers, *method.needs.signals}),
        method.needs.pull_back,
        class_counts=None if method.answers in ROWS else (1,) * count,
        class_names=names,
        embedding=method.answers in ROWS,
    )
