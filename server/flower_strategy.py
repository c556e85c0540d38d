"""The Flower strategy: data-free distillation in rounds, with the queries through a gRPC hub.

    strategy = DataFreeDistillation(
        method=cudfkd(), student=student, plan=Plan(budget=12_800), priors=priors(), model="cnn"
    )
    result = strategy.start(grid, ArrayRecord(student.state_dict()), num_rounds=10)

Flower is the control plane: it finds the institutions, asks each once to connect to the hub, and
carries the student to be evaluated. Queries and answers go through the hub, which is open while
`start` runs. A round is an equal share of the student's steps.
"""

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor, nn

from fedkd.core.device import CPU, Compute
from fedkd.core.earlier_student import EarlierStudent
from fedkd.core.public_data import PublicData
from fedkd.errors import NeedsError, SettingsError
from fedkd.experiment import ADAPTIVE, Linger
from fedkd.loop import Distilled, Plan, Progress, Watch
from fedkd.methods import Method
from fedkd.procedural import Prior
from fedkd.protocol import Card, LabelSpaces
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.server.hub.bans import Bans
from fedkd.server.hub.hub import MAX_INSTITUTIONS, Hub
from fedkd.server.hub.participant_session import ParticipantCounters
from fedkd.server.hub.quorum_error import quorum_lost
from fedkd.server.remote_institutions import RemoteInstitutions
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.flower_grid import (
    ARRAYS,
    CONFIG,
    await_nodes,
    broadcast,
    released_scores,
    successful_replies,
)
from fedkd.server.run.quorum import Quorum
from fedkd.tasks import task_of
from fedkd.tasks.released_scores import EXAMPLES, flat_scores
from fedkd.wire.grpc_channels import grpc

log = logging.getLogger("flwr")


def training_metrics(latest: Mapping[str, Mapping[str, Any]], answering: int) -> MetricRecord:
    """Metrics of a round: of the last question, step and evaluation on what was held back.

    Args:
        latest: facts of the latest event, by kind.
        answering: institutions that answer.
    """
    trained, held_back = latest.get("trained", {}), latest.get("held_back", {})
    metrics = {"asked": latest.get("asked", {}).get("asked", 0), "institutions": answering}
    names = ("loss", "difficulty", "curriculum_lambda")
    metrics |= {name: trained[name] for name in names if name in trained}
    scores = {n: v for n, v in held_back.items() if n not in ("step", "asked", "done")}
    known = {f"held_back_{name}": value for name, value in flat_scores(scores).items()}
    return MetricRecord(metrics | known)


@dataclass(eq=False)
class _OpenRun:
    """The resources of a strategy while it runs."""

    hub: Hub
    token: str
    rounds: int
    timeout: float
    """Seconds that nodes may take to connect, or to answer a message."""
    nodes: tuple[int, ...] = ()
    coordinator: Coordinator | None = None
    participants: RemoteInstitutions | None = None


class DataFreeDistillation(Strategy):
    """Train a student on what institutions answer, without their data.

    Args:
        method: of a paper, see `fedkd.methods`.
        student: (B, C, H, W) in [0, 1] -> (B, K); trained in place.
        plan: budget of questions and steps of the student.
        priors: procedural priors, by name.
        model: the student's name in `fedkd.models.registry`, by which institutions with an agent of
            their own build it to evaluate it; empty where each ClientApp knows how to build it, as
            `fedkd.flower.teacher_app` does; None for a student that is not evaluated.
        seed: of all random numbers of the loop.
        quorum: least number of institutions that must answer a question.
        min_available_nodes: least number of nodes, connected to the hub, before the first question.
        address: on which the hub listens, host:port; port 0 for any that is free.
        advertised: address to which institutions connect, host:port; empty for `address`.
        credentials: TLS of the hub; without them only this machine can connect.
        question_timeout: seconds that one question may take.
        linger: of the others, once a quorum has answered, see `fedkd.server.hub.linger`.
        watch: called with progress events.
        recipes: whether to send recipes in place of samples that institutions can render.
        checkpoint: of the run; a resumed one continues from its last state.
        overlap: whether the student trains while it waits for answers; no result depends on it.
        compute: device of student, generator and bank.
        public: public samples, (N, C, H, W) uint8, if the method needs it.
        misfit: why an institution with that card is turned away, in one line; None: it is not.
        max_institutions: sessions of the hub that may be open at a time.
        earlier: the student of an earlier run that this one goes on with.
    """

    def __init__(
        self,
        *,
        method: Method,
        student: nn.Module,
        plan: Plan,
        priors: Mapping[str, Prior],
        model: str | None = "",
        seed: int = 0,
        quorum: int = 1,
        min_available_nodes: int = 2,
        address: str = "127.0.0.1:0",
        advertised: str = "",
        credentials: grpc.ServerCredentials | None = None,
        question_timeout: float = 60.0,
        linger: Linger = ADAPTIVE,
        watch: Watch = lambda progress: None,
        recipes: bool = True,
        checkpoint: Checkpoint | None = None,
        overlap: bool = True,
        compute: Compute = CPU,
        public: PublicData | Tensor | None = None,
        misfit: Callable[[Card], str | None] = lambda card: None,
        max_institutions: int = MAX_INSTITUTIONS,
        earlier: EarlierStudent | None = None,
    ) -> None:
        self.parts = Ingredients(
            *(student, method, plan, priors, seed, quorum, checkpoint),
            *(recipes, overlap, compute, public, earlier),
        )
        self.model = model
        self.min_available_nodes = min_available_nodes
        self.address, self.advertised = address, advertised
        self.credentials = credentials
        self.question_timeout, self.linger = question_timeout, linger
        self.watch, self.misfit = watch, misfit
        self.max_institutions = max_institutions
        self.distilled: Distilled | None = None
        """The result of the loop, once `start` has returned."""
        self.cards: tuple[Card, ...] = ()
        """Of the institutions that took part."""
        self.counters: Mapping[str, ParticipantCounters] = {}
        """Of each institution, by name, once `start` has returned."""
        self._open_run: _OpenRun | None = None

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Distil in ``num_rounds`` rounds; see `Strategy.start`.

        ``train_config`` and ``evaluate_config`` are sent to the institutions unchanged: simulated
        ones find their experiment there.

        Raises:
            SettingsError: no rounds, or arrays that do not fit the student.
            QuorumLost: too few institutions connected, or answered.
        """
        if num_rounds < 1:
            raise SettingsError(f"{num_rounds} rounds; a student needs 1 or more to be trained in")
        try:
            self.parts.student.load_state_dict(initial_arrays.to_torch_state_dict())
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise SettingsError(f"the initial arrays do not fit the student: {text}") from error
        token = secrets.token_urlsafe()
        checkpoint = self.parts.checkpoint
        known, bans = (checkpoint.known_cards, checkpoint.bans) if checkpoint else ((), Bans())
        with Hub(
            *(token, self.address, self.credentials),
            known=known,
            bans=bans,
            max_institutions=self.max_institutions,
            misfit=self._misfit,
        ) as hub:
            if checkpoint is not None:
                checkpoint.current_counts = lambda: {
                    name: counters.counts for name, counters in hub.counters.items()
                }
            self._open_run = _OpenRun(hub, token, num_rounds, timeout)
            try:
                return super().start(
                    *(grid, initial_arrays, num_rounds, timeout),
                    *(train_config, evaluate_config, evaluate_fn),
                )
            finally:
                self.counters = hub.counters
                self._open_run = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """In the first round, a message that asks each node to connect to the hub; later none."""
        run = self._open()
        if server_round > 1:
            return []
        fewest = self.min_available_nodes
        run.nodes = await_nodes(grid, Quorum(fewest, fewest, run.timeout))
        address = self.advertised or run.hub.address
        settings = {**config, "address": address, "token": run.token}
        content = RecordDict({CONFIG: ConfigRecord(settings)})
        return broadcast(run.nodes, content, "query.session", run.timeout)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Advance the loop by one round; returns the student and its training metrics.

        Raises:
            QuorumLost: too few institutions accepted, connected, or answered a question.
        """
        run = self._open()
        if server_round == 1:
            self._start_coordinator(run, len(successful_replies(replies, self.min_available_nodes)))
        coordinator, participants = self._coordinator()
        coordinator.advance(server_round / run.rounds)
        self.distilled, self.cards = coordinator.distilled, tuple(participants.cards)
        metrics = training_metrics(coordinator.latest, participants.answering)
        return ArrayRecord(self.parts.student.state_dict()), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The student for every node, unless it is not to be evaluated."""
        run = self._open()
        before = self._coordinator()[0].notes.get("examined", 0)  # in an earlier life of the run
        if self.model is None or not self.cards or server_round <= before:
            return []
        teachers = self._coordinator()[0].teachers
        names, shape = LabelSpaces.of(teachers).names, self.cards[0].shape
        settings = {**config, "classes": list(names), "shape": list(shape)}
        if self.model:
            settings["model"] = self.model
        content = RecordDict({CONFIG: ConfigRecord(settings), ARRAYS: arrays})
        return broadcast(run.nodes, content, "evaluate", run.timeout)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Scores on the test data of the institutions that report them; None if none does."""
        notes = self._coordinator()[0].notes
        notes["examined"] = max(server_round, notes.get("examined", 0))
        released = released_scores(replies)
        task = task_of(self._coordinator()[0].teachers)
        scores = flat_scores(task.pooled(released))
        if not scores:
            return None
        facts = {
            "asked": 0,
            "step": 0,
            "done": 0.0,
            **self._coordinator()[0].latest.get("trained", {}),
        }
        seen = {key: facts[key] for key in ("asked", "step", "done")}
        self.watch(Progress("scored", {**seen, task.main_score: scores.get(task.main_score)}))
        examples = sum(cast(int, score[EXAMPLES]) for score in released)
        return MetricRecord({**scores, EXAMPLES: examples, "institutions": len(released)})

    def summary(self) -> None:
        """Log what the strategy will do."""
        parts = self.parts
        log.info("\t├── method: %s (%s)", parts.method.name, parts.method.paper)
        log.info("\t├── gradient of the generator: %s", parts.method.gradient.name)
        log.info("\t├── samples asked of each institution: %s", f"{parts.plan.budget:,}")
        log.info("\t├── student steps: %s", f"{parts.plan.steps:,}")
        log.info("\t├── priors: %s", ", ".join(parts.priors) or "none")
        log.info("\t└── institutions: %s or more", self.min_available_nodes)

    def _start_coordinator(self, run: _OpenRun, count: int) -> None:
        checkpoint, quorum = self.parts.checkpoint, self.parts.quorum
        earlier, banned = (checkpoint.cards, len(checkpoint.bans)) if checkpoint else ([], 0)
        # A banned institution accepts Flower's message, and is refused when it connects.
        expected = max(quorum, count - banned)
        linger = self.question_timeout if earlier else None
        wait = Quorum(expected, quorum, run.timeout, linger)
        hub = run.hub
        present = wait.wait_for(lambda: hub.cards, turned_away=lambda: len(hub.turned_away))
        if len(present) < quorum:
            raise quorum_lost(present, quorum, run.timeout, hub.turned_away)
        cards = earlier or present
        participants = RemoteInstitutions(
            run.hub, self.parts, cards, self.question_timeout, self.linger
        )
        coordinator = Coordinator(
            *(self.parts, participants.cards, participants.answer, self.watch),
            exclusions=run.hub.refresh_bans,
        )
        participants.cards = coordinator.cards  # of a resumed run: those who took part before
        participants.fusion_failure = coordinator.fusion_failure
        run.participants, run.coordinator = participants, coordinator

    def _misfit(self, card: Card) -> str | None:
        """Why an institution is turned away: its card, or a signal that the method needs."""
        try:
            self.parts.method.check([card], self.parts.plan.batch_statistics)
            self.parts.plan.check_cards([card])
        except NeedsError as error:
            return str(error)
        return self.misfit(card)

    def _open(self) -> _OpenRun:
        if self._open_run is None:
            raise SettingsError("no hub is open; call start, which opens one for the whole run")
        return self._open_run

    def _coordinator(self) -> tuple[Coordinator, RemoteInstitutions]:
        run = self._open()
        if run.coordinator is None or run.participants is None:
            raise SettingsError("no institution was asked to connect; rounds count from 1")
        return run.coordinator, run.participants
