"""Flower rounds of a run: nodes connect to the hub, the loop goes on, the student is evaluated.

Flower is the control plane: it finds the institutions, asks each once to connect to the hub, and
carries the student to be evaluated. Queries, answers and cards go through the hub, which is open
while `start` runs. A round is an equal share of the student's steps.
"""

import secrets
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedkd.errors import SettingsError
from fedkd.experiment import ADAPTIVE, Linger
from fedkd.loop import Distilled, Progress, Watch
from fedkd.protocol import Card, LabelSpaces
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.server.hub.bans import Bans
from fedkd.server.hub.hub import MAX_INSTITUTIONS, Hub
from fedkd.server.hub.participant_session import ParticipantCounters
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
from fedkd.server.start_selection import await_institutions
from fedkd.tasks import task_of
from fedkd.tasks.released_scores import EXAMPLES, flat_scores
from fedkd.wire.grpc_channels import grpc


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


class FlowerRounds(Strategy):
    """A strategy that advances one run by equal shares; a subclass says what the run is made of.

    Args:
        model: the student's name in `fedkd.models.registry`, by which institutions with an agent of
            their own build it to evaluate it; empty where each ClientApp knows how to build it, as
            `fedkd.flower.teacher_app` does; None for a student that is not evaluated.
        expected_nodes: nodes that are waited for, as long as the timeout of `start` allows.
        min_available_nodes: least number of nodes before the first question.
        quorum: least number of institutions, connected to the hub, before the first question.
        address: on which the hub listens, host:port; port 0 for any that is free.
        advertised: address to which institutions connect, host:port; empty for `address`.
        credentials: TLS of the hub; without them only this machine can connect.
        question_timeout: seconds that one question may take.
        linger: of the others, once a quorum has answered, see `fedkd.server.hub.linger`.
        watch: called with progress events.
        begun: called once with the cards of the institutions, before the first question.
        checkpoint: of the run; a resumed one continues from its last state.
        misfit: why an institution with that card is turned away, in one line; None: it is not.
        max_institutions: sessions of the hub that may be open at a time.
    """

    def __init__(
        self,
        *,
        model: str | None,
        expected_nodes: int,
        min_available_nodes: int,
        quorum: int,
        address: str,
        advertised: str,
        credentials: grpc.ServerCredentials | None,
        question_timeout: float,
        linger: Linger = ADAPTIVE,
        watch: Watch = lambda progress: None,
        begun: Callable[[Sequence[Card]], None] = lambda cards: None,
        checkpoint: Checkpoint | None = None,
        misfit: Callable[[Card], str | None] = lambda card: None,
        max_institutions: int = MAX_INSTITUTIONS,
    ) -> None:
        self.model, self.quorum = model, quorum
        self.expected_nodes, self.min_available_nodes = expected_nodes, min_available_nodes
        self.address, self.advertised = address, advertised
        self.credentials = credentials
        self.question_timeout, self.linger = question_timeout, linger
        self.watch, self.begun = watch, begun
        self.checkpoint, self.misfit = checkpoint, misfit
        self.max_institutions = max_institutions
        self.distilled: Distilled | None = None
        """The result of the loop, once `start` has returned."""
        self.cards: tuple[Card, ...] = ()
        """Of the institutions that took part."""
        self.counters: Mapping[str, ParticipantCounters] = {}
        """Of each institution, by name, once `start` has returned."""
        self._open_run: _OpenRun | None = None

    @abstractmethod
    def misfits(self, cards: Sequence[Card]) -> Mapping[str, str]:
        """Those of the connected institutions that cannot take part in a new run, with reasons."""

    @abstractmethod
    def ingredients(self, cards: Sequence[Card]) -> Ingredients:
        """What the run is made of, for the institutions that take part in it."""

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
            SettingsError: no rounds.
            QuorumLost: too few institutions connected, or answered.
        """
        if num_rounds < 1:
            raise SettingsError(f"{num_rounds} rounds; a student needs 1 or more to be trained in")
        token, checkpoint = secrets.token_urlsafe(), self.checkpoint
        known, bans = (checkpoint.known_cards, checkpoint.bans) if checkpoint else ((), Bans())
        with Hub(
            *(token, self.address, self.credentials),
            known=known,
            bans=bans,
            max_institutions=self.max_institutions,
            misfit=self.misfit,
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
        expected, fewest = self.expected_nodes, self.min_available_nodes
        run.nodes = await_nodes(grid, Quorum(expected, fewest, run.timeout, self._resumed_linger))
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
        return ArrayRecord(coordinator.student.state_dict()), metrics

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

    @property
    def _resumed_linger(self) -> float | None:
        """Seconds for those who are not back when a resumed run has its quorum."""
        resumed = self.checkpoint is not None and self.checkpoint.cards
        return self.question_timeout if resumed else None

    def _start_coordinator(self, run: _OpenRun, count: int) -> None:
        checkpoint, hub = self.checkpoint, run.hub
        earlier, banned = (checkpoint.cards, len(checkpoint.bans)) if checkpoint else ([], 0)
        # A banned institution accepts Flower's message, and is refused when it connects.
        expected = max(self.quorum, count - banned)
        present = await_institutions(
            hub,
            Quorum(expected, self.quorum, run.timeout, self._resumed_linger),
            misfits=(lambda cards: {}) if earlier else self.misfits,
        )
        parts = self.ingredients(earlier or present)
        participants = RemoteInstitutions(
            hub, parts, earlier or present, self.question_timeout, self.linger
        )
        coordinator = Coordinator(
            *(parts, participants.cards, participants.answer, self.watch),
            exclusions=hub.refresh_bans,
        )
        participants.cards = coordinator.cards  # of a resumed run: those who took part before
        participants.fusion_failure = coordinator.fusion_failure
        run.participants, run.coordinator = participants, coordinator
        self.begun(tuple(coordinator.cards))

    def _open(self) -> _OpenRun:
        if self._open_run is None:
            raise SettingsError("no hub is open; call start, which opens one for the whole run")
        return self._open_run

    def _coordinator(self) -> tuple[Coordinator, RemoteInstitutions]:
        run = self._open()
        if run.coordinator is None or run.participants is None:
            raise SettingsError("no institution was asked to connect; rounds count from 1")
        return run.coordinator, run.participants
