"""Driver of a run without Flower: distil from the institutions at the hub, write the report."""

from typing import Any

from fedkd.experiment import Experiment
from fedkd.protocol import Card
from fedkd.server.coordinator import Coordinator, StudentFactory, ingredients
from fedkd.server.hub.hub import Hub
from fedkd.server.remote_institutions import RemoteInstitutions
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.run_recorder import Evaluation, RunRecorder, traffic_of


def distil_over_hub(
    experiment: Experiment,
    hub: Hub,
    cards: tuple[Card, ...],
    recorder: RunRecorder,
    checkpoint: Checkpoint | None = None,
    build: StudentFactory | None = None,
) -> dict[str, Any]:
    """Distil the experiment's student from these institutions, and leave its report.

    Args:
        experiment: resolved.
        hub: open, with the institutions of ``cards``.
        cards: of those that are connected.
        recorder: of this run.
        checkpoint: of this run; a resumed one continues from its last state.
        build: makes the student, where it is not the one that the experiment names.

    Returns:
        The content of ``result.json``. Accuracies are None: a coordinator has no data.

    Raises:
        SettingsError: the experiment names something that does not exist.
        QuorumLost: too few institutions answered a question.
    """
    asked, earlier = experiment.questions, [] if checkpoint is None else checkpoint.cards
    parts = ingredients(experiment, earlier or cards, checkpoint, build)
    recorder.student = parts.student
    participants = RemoteInstitutions(hub, parts, earlier or cards, asked.timeout, asked.linger)

    def counted() -> dict[str, dict[str, int]]:
        return {name: counters.counts for name, counters in hub.counters.items()}

    if checkpoint is not None:
        checkpoint.current_counts = counted
    coordinator = Coordinator(
        *(parts, participants.cards, participants.answer, recorder), exclusions=hub.refresh_bans
    )
    participants.cards = coordinator.cards  # of a resumed run: those who took part before
    participants.fusion_failure = coordinator.fusion_failure
    recorder.begin(coordinator.cards)
    distilled = coordinator.finish()
    total = counted() if checkpoint is None else checkpoint.total_counts()
    traffic = {name: traffic_of(counts) for name, counts in total.items()}
    result = recorder.finish(distilled, participants.cards, traffic, Evaluation(simulated=False))
    if checkpoint is not None:
        checkpoint.finish()
    return result
