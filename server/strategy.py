"""Data-free distillation as a Flower strategy. Knows no data, no teacher and no engine.

    strategy = DataFreeDistillation(
        method=cudfkd(), student=student, plan=Plan(budget=12_800), priors=priors(), model="cnn"
    )
    result = strategy.start(grid, ArrayRecord(student.state_dict()), num_rounds=10)

Flower is the control plane: it finds the institutions, rings them once, and carries the student
to be examined. Questions and answers go through a gRPC hub that is open while `start` runs. A
round is an equal share of the student's steps, so that Flower's rounds are this run's epochs.
"""

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor, nn

from fedkd.core.compute import CPU, Compute
from fedkd.errors import SettingsError
from fedkd.loop import Distilled, Plan, Progress, Watch
from fedkd.methods import Method
from fedkd.procedural.priors import Prior
from fedkd.protocol.label_spaces import Labels
from fedkd.protocol.signals import Card
from fedkd.server.coordinator import Coordinator, Ingredients
from fedkd.server.hub.bans import Strikes
from fedkd.server.hub.hub import Hub, too_few
from fedkd.server.hub.participant_list import Audience
from fedkd.server.hub.session import Counters
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.server.run.flower_messages import CONFIG, accepted, await_nodes, to_all
from fedkd.server.run.quorum import Muster
from fedkd.wire.channel import grpc

log = logging.getLogger("flwr")


@dataclass(eq=False)
class _Session:
    """What is open while a strategy runs."""

    hub: Hub
    token: str
    rounds: int
    timeout: float
    """Seconds that nodes may take to come, or to answer a message."""
    nodes: tuple[int, ...] = ()
    coordinator: Coordinator | None = None
    audience: Audience | None = None


class DataFreeDistillation(Strategy):
    """Train a student on what institutions answer, without their data.

    Args:
        method: the paper.
        student: (B, C, H, W) in [0, 1] -> (B, K); trained in place.
        plan: how much is asked, how long the student learns.
        priors: procedural images, by name.
        model: the student's name in `fedkd.models.networks`, so that institutions can build and examine
            it; empty where it has none, and nobody is asked to.
        seed: of everything random in the loop.
        quorum: fewest institutions that must answer a question.
        min_available_nodes: nodes that must be there, and dial in, before the first question.
        address: where the hub listens, host:port; port 0 for any that is free.
        advertised: where institutions are told to dial, host:port; empty for `address` itself.
        credentials: TLS of the hub; without them only this machine can dial in.
        question_timeout: seconds that one question may take.
        linger: seconds of them that the others may take once a quorum has answered; None for all.
        watch: is told of progress; changes nothing.
        recipes: whether images may be named by recipe where an institution can draw them.
        checkpoint: the way back of the run; one that was resumed goes on where it was set down.
        overlap: whether the student learns while answers travel; no number depends on it.
        compute: where student, generator and bank are.
        collected: images of the coordinator's own, (N, C, H, W) uint8, where the method needs some.
    """

    def __init__(
        self,
        *,
        method: Method,
        student: nn.Module,
        plan: Plan,
        priors: Mapping[str, Prior],
        model: str = "",
        seed: int = 0,
        quorum: int = 1,
        min_available_nodes: int = 2,
        address: str = "127.0.0.1:0",
        advertised: str = "",
        credentials: grpc.ServerCredentials | None = None,
        question_timeout: float = 60.0,
        linger: float | None = None,
        watch: Watch = lambda progress: None,
        recipes: bool = True,
        checkpoint: Checkpoint | None = None,
        overlap: bool = True,
        compute: Compute = CPU,
        collected: Tensor | None = None,
    ) -> None:
        self.parts = Ingredients(
            *(student, method, plan, priors, seed, quorum, checkpoint),
            *(recipes, overlap, compute, collected),
        )
        self.model = model
        self.min_available_nodes = min_available_nodes
        self.address, self.advertised = address, advertised
        self.credentials = credentials
        self.question_timeout, self.linger = question_timeout, linger
        self.watch = watch
        self.distilled: Distilled | None = None
        """What the run left, once `start` has returned."""
        self.cards: tuple[Card, ...] = ()
        """Of the institutions that took part."""
        self.counters: Mapping[str, Counters] = {}
        """What passed between hub and institutions, by name, once `start` has returned."""
        self._session: _Session | None = None

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
        """Distil in ``num_rounds`` rounds over one session; see `Strategy.start`.

        ``train_config`` and ``evaluate_config`` reach the institutions as they are: simulated ones
        find their experiment there.

        Raises:
            SettingsError: no round, or arrays that do not fit the student.
            QuorumLost: too few institutions came, or answered.
        """
        if num_rounds < 1:
            raise SettingsError(f"{num_rounds} rounds; a student needs 1 or more to be trained in")
        try:
            self.parts.student.load_state_dict(initial_arrays.to_torch_state_dict())
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise SettingsError(f"the initial arrays do not fit the student: {text}") from error
        token = secrets.token_urlsafe()
        way_back = self.parts.checkpoint
        known, strikes = (way_back.known, way_back.strikes) if way_back else ((), Strikes())
        with Hub(token, self.address, self.credentials, known=known, strikes=strikes) as hub:
            if way_back is not None:
                way_back.counted = lambda: {
                    name: counters.counts for name, counters in hub.counters.items()
                }
            self._session = _Session(hub, token, num_rounds, timeout)
            try:
                return super().start(
                    *(grid, initial_arrays, num_rounds, timeout),
                    *(train_config, evaluate_config, evaluate_fn),
                )
            finally:
                self.counters = hub.counters
                self._session = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The doorbell of every node in the first round; nothing later, the session stays open."""
        session = self._open()
        if server_round > 1:
            return []
        fewest = self.min_available_nodes
        session.nodes = await_nodes(grid, Muster(fewest, fewest, session.timeout))
        address = self.advertised or session.hub.address
        told = {**config, "address": address, "token": session.token}
        content = RecordDict({CONFIG: ConfigRecord(told)})
        return to_all(session.nodes, content, "query.session", session.timeout)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Advance the loop by one round: the student, and how it is doing.

        Raises:
            QuorumLost: too few institutions opened, dialled in, or answered a question.
        """
        session = self._open()
        if server_round == 1:
            self._convene(session, len(accepted(replies, self.min_available_nodes)))
        coordinator, audience = self._coordinator()
        coordinator.advance(server_round / session.rounds)
        self.distilled, self.cards = coordinator.distilled, tuple(audience.cards)
        trained, asked = (coordinator.latest.get(kind, {}) for kind in ("trained", "asked"))
        metrics = {"asked": asked.get("asked", 0), "institutions": audience.answering}
        metrics |= {k: trained[k] for k in ("loss", "difficulty", "pace") if k in trained}
        return ArrayRecord(self.parts.student.state_dict()), MetricRecord(metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The student for every node that was rung, where institutions can build it."""
        session = self._open()
        before = self._coordinator()[0].notes.get("examined", 0)  # in an earlier life of the run
        if not self.model or not self.cards or server_round <= before:
            return []
        names, shape = Labels.of(self.cards).names, self.cards[0].shape
        told = {**config, "model": self.model, "classes": list(names), "shape": list(shape)}
        content = RecordDict({CONFIG: ConfigRecord(told), "student": arrays})
        return to_all(session.nodes, content, "evaluate", session.timeout)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Accuracy over the test data of the institutions that tell; None if none does."""
        notes = self._coordinator()[0].notes
        notes["examined"] = max(server_round, notes.get("examined", 0))
        right, examples, telling = 0.0, 0, 0
        for reply in accepted(replies, 0):
            score = reply.content.metric_records["score"]
            if "accuracy" in score:
                count = cast(int, score["num-examples"])
                right += cast(float, score["accuracy"]) * count
                examples, telling = examples + count, telling + 1
        if not examples:
            return None
        accuracy = right / examples
        facts = {
            "asked": 0,
            "step": 0,
            "done": 0.0,
            **self._coordinator()[0].latest.get("trained", {}),
        }
        seen = {key: facts[key] for key in ("asked", "step", "done")}
        self.watch(Progress("scored", {**seen, "accuracy": accuracy}))
        return MetricRecord(
            {"accuracy": accuracy, "num-examples": examples, "institutions": telling}
        )

    def summary(self) -> None:
        """Log what the strategy will do."""
        parts = self.parts
        log.info("\t├── method: %s (%s)", parts.method.name, parts.method.paper)
        log.info("\t├── gradient of the generator: %s", parts.method.gradient.name)
        log.info("\t├── samples asked of each institution: %s", f"{parts.plan.budget:,}")
        log.info("\t├── student steps: %s", f"{parts.plan.steps:,}")
        log.info("\t├── priors: %s", ", ".join(parts.priors) or "none")
        log.info("\t└── institutions: %s or more", self.min_available_nodes)

    def _convene(self, session: _Session, count: int) -> None:
        way_back, quorum = self.parts.checkpoint, self.parts.quorum
        earlier, struck = (way_back.cards, len(way_back.strikes)) if way_back else ([], 0)
        # Whoever was struck off opens when it is rung, and is refused when it dials in.
        expected = max(quorum, count - struck)
        linger = self.question_timeout if earlier else None
        muster = Muster(expected, quorum, session.timeout, linger)
        present = muster.assemble(lambda: session.hub.cards)
        if len(present) < quorum:
            raise too_few(present, quorum, session.timeout)
        cards = earlier or present
        audience = Audience(session.hub, self.parts, cards, self.question_timeout, self.linger)
        coordinator = Coordinator(self.parts, audience.cards, audience.answer, self.watch)
        audience.cards = coordinator.cards  # of a run that is taken up again: whoever took part
        session.audience, session.coordinator = audience, coordinator

    def _open(self) -> _Session:
        if self._session is None:
            raise SettingsError("no hub is open; call start, which opens one for the whole run")
        return self._session

    def _coordinator(self) -> tuple[Coordinator, Audience]:
        session = self._open()
        if session.coordinator is None or session.audience is None:
            raise SettingsError("no institution was rung; rounds count from 1")
        return session.coordinator, session.audience
