"""The Flower strategy: data-free distillation of a student of your own, queries through a gRPC hub.

strategy = DataFreeDistillation(
    method=cudfkd(), student=student, plan=Plan(budget=12_800), priors=priors(), model="cnn"
)
result = strategy.start(grid, ArrayRecord(student.state_dict()), num_rounds=10)
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from torch import Tensor, nn

from fedkd.core.device import CPU, Compute
from fedkd.core.earlier_student import EarlierStudent
from fedkd.core.public_data import PublicData
from fedkd.errors import NeedsError, SettingsError
from fedkd.experiment import ADAPTIVE, Linger
from fedkd.loop import Plan, Watch
from fedkd.methods import Method
from fedkd.procedural import Prior
from fedkd.protocol import Card
from fedkd.server.coordinator import Ingredients
from fedkd.server.flower_rounds import FlowerRounds
from fedkd.server.hub.hub import MAX_INSTITUTIONS
from fedkd.server.run.checkpoint import Checkpoint
from fedkd.wire.grpc_channels import grpc

log = logging.getLogger("flwr")


class DataFreeDistillation(FlowerRounds):
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
        super().__init__(
            model=model,
            expected_nodes=min_available_nodes,
            min_available_nodes=min_available_nodes,
            quorum=quorum,
            address=address,
            advertised=advertised,
            credentials=credentials,
            question_timeout=question_timeout,
            linger=linger,
            watch=watch,
            checkpoint=checkpoint,
            misfit=lambda card: self._unmet_need(card) or misfit(card),
            max_institutions=max_institutions,
        )
        self.parts = Ingredients(
            *(student, method, plan, priors, seed, quorum, checkpoint),
            *(recipes, overlap, compute, public, earlier),
        )

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

        Raises:
            SettingsError: no rounds, or arrays that do not fit the student.
            QuorumLost: too few institutions connected, or answered.
        """
        try:
            self.parts.student.load_state_dict(initial_arrays.to_torch_state_dict())
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise SettingsError(f"the initial arrays do not fit the student: {text}") from error
        return super().start(
            *(grid, initial_arrays, num_rounds, timeout),
            *(train_config, evaluate_config, evaluate_fn),
        )

    def misfits(self, cards: Sequence[Card]) -> Mapping[str, str]:
        """None: whose needs are met fits, and the student is given."""
        return {}

    def ingredients(self, cards: Sequence[Card]) -> Ingredients:
        """Those given, whoever takes part."""
        return self.parts

    def summary(self) -> None:
        """Log what the strategy will do."""
        parts = self.parts
        log.info("\t├── method: %s (%s)", parts.method.name, parts.method.paper)
        log.info("\t├── gradient of the generator: %s", parts.method.gradient.name)
        log.info("\t├── samples asked of each institution: %s", f"{parts.plan.budget:,}")
        log.info("\t├── student steps: %s", f"{parts.plan.steps:,}")
        log.info("\t├── priors: %s", ", ".join(parts.priors) or "none")
        log.info("\t└── institutions: %s or more", self.min_available_nodes)

    def _unmet_need(self, card: Card) -> str | None:
        """Why an institution with that card does not do for the method; None if it does."""
        try:
            self.parts.method.check([card], self.parts.plan.batch_statistics)
            self.parts.plan.check_cards([card])
        except NeedsError as error:
            return str(error)
        return None
