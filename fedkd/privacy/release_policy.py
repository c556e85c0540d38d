"""Release policy of an owner: which queries are answered, within which limits and privacy mode.

Everything here is a pure function of the policy and its arguments: the time, and what the ledger
states, are given by the caller. The release gate in ``client`` enforces it.
"""

from dataclasses import dataclass
from datetime import time
from fractions import Fraction

from fedkd.errors import SettingsError
from fedkd.privacy.budget import Budget
from fedkd.protocol import WHOLE_BATCH, Ask, PullBack, Reason, Refusal, Signal


@dataclass(frozen=True)
class Mode:
    """Properties of a privacy mode that decide which policies are valid."""

    guarantees: bool
    """It guarantees differential privacy, so that nothing without noise may be released."""
    charged: bool
    """Every answer has noise, and is charged to a budget."""
    protects_data_set: bool = False
    """Its guarantee is for the whole data set, and not for one image."""


LARGEST_WHOLE_PULL_BACK = 512
"""Most samples through which a gradient goes as one batch: all of its activations are in memory at
once, some 5 GB of them for a ResNet-18 and images of 32x32."""

MOST_DIGITS = 15
"""Of rounded probabilities: as many as a floating-point number of 64 bits has."""
MODES = {
    "none": Mode(guarantees=False, charged=False),
    "dp-teacher": Mode(guarantees=True, charged=False),
    "pate": Mode(guarantees=True, charged=True),
    "local-dp": Mode(guarantees=True, charged=True, protects_data_set=True),
}
"""Privacy modes of answers, see `fedkd.client.release`; ``none`` guarantees nothing."""


@dataclass(frozen=True)
class Policy:
    """What an owner allows to be released. What is not named here is refused.

    Raises:
        SettingsError: a value that no policy can have.
    """

    signals: frozenset[Signal] = frozenset({Signal.LOGITS})
    """Signals that may be released."""
    pull_back: bool = False
    """Whether gradients of those signals may be released: a release like any other."""
    samples: int | None = None
    """Most samples answered, those of pull-backs included; None for no cap. A query is charged
    once: asked again as it was it counts for nothing, its samples in another query count again."""
    largest_batch: int = 4096
    """Most samples in one query."""
    class_counts: bool = False
    """Whether the number of training images of each class may be released."""
    scores: bool = False
    """Whether the accuracy of a student on the private test data may be released."""
    examinations: int | None = None
    """Most students that are evaluated; None for no cap. The same student counts once."""
    samples_per_hour: int | None = None
    """Rate limit: most samples charged in any sixty minutes; None for no cap."""
    hours: tuple[time, time] | None = None
    """Local time of day from which, and until which, queries are answered; may pass midnight."""
    servers: frozenset[str] | None = None
    """host:port of the servers that are answered; None for all that the agent is told to dial."""
    shape: tuple[int, int, int] | None = None
    """(C, H, W) of the images that are accepted; None for the teacher's."""
    low: float = 0.0
    """Lowest pixel value that is accepted, images in [0, 1]."""
    high: float = 1.0
    """Highest pixel value that is accepted."""
    batch_statistics: bool = False
    """Whether a teacher with batch norm answers by the statistics of a batch where it is asked to:
    then each answer depends on the other samples of its batch."""
    recipes: bool = True
    """Whether queries by recipe are accepted and rendered here; else the images have to be sent."""
    labels: bool = False
    """Only the predicted class is released. Like the next two it discloses less and guarantees
    nothing."""
    top_k: int | None = None
    """Only the probabilities of so many classes are released."""
    rounding: int | None = None
    """Decimal digits to which probabilities are released."""
    mode: str = "none"
    """The privacy mode of answers, one of `MODES`."""
    budget: Budget | None = None
    """All that the data set may cost, in all modes with a guarantee together. dp-teacher can do
    without: then the cost of trainings is stated, and not bounded."""
    noise: Fraction | None = None
    """Standard deviation of the noise, in votes or in logits; None for the smallest with which
    ``samples`` images are answered within the budget."""
    clipping: Fraction = Fraction(8)
    """Of local-dp: largest L2 norm of centred logits."""

    def __post_init__(self) -> None:
        if unknown := set(self.signals) - set(Signal):
            raise SettingsError(
                f"policy.signals names {', '.join(sorted(map(str, unknown)))}; "
                f"choose among {', '.join(Signal)}"
            )
        for name, least in {
            "samples": 0,
            "samples_per_hour": 0,
            "examinations": 0,
            "largest_batch": 1,
        }.items():
            value = getattr(self, name)
            if not (_is_integer(value, least) or (value is None and name != "largest_batch")):
                raise SettingsError(f"policy.{name} = {value!r}: expected an integer >= {least}")
        if self.hours is not None and not _is_time_range(self.hours):
            raise SettingsError("policy.hours: expected two different local times without a zone")
        for server in self.servers or ():
            host, _, port = server.rpartition(":")
            if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
                raise SettingsError(f"policy.servers names {server!r}: expected host:port")
        if self.shape is not None and not (
            len(self.shape) == 3 and all(_is_integer(side, 1) for side in self.shape)
        ):
            raise SettingsError(f"policy.shape = {self.shape}: expected (C, H, W), each >= 1")
        if not 0.0 <= self.low < self.high <= 1.0:
            raise SettingsError(
                f"policy.low = {self.low} and policy.high = {self.high}: "
                "expected 0 <= low < high <= 1"
            )
        if self.mode not in MODES:
            raise SettingsError(f"policy.mode = {self.mode!r}: choose one of {', '.join(MODES)}")
        self._check_disclosure()
        self._check_mode(MODES[self.mode])

    def _check_disclosure(self) -> None:
        for name, most in (("top_k", 1000), ("rounding", MOST_DIGITS)):
            value = getattr(self, name)
            if value is not None and not (_is_integer(value, 1) and value <= most):
                raise SettingsError(f"policy.{name} = {value!r}: expected an integer, 1 to {most}")
        if self.labels and (self.top_k or self.rounding):
            raise SettingsError("policy.labels leaves nothing for top_k or rounding; keep one")
        if self.reduced and (self.pull_back or self.signals != {Signal.LOGITS}):
            raise SettingsError(
                "policy.labels, top_k and rounding are of logits alone; release no other signal "
                "beside them, and no gradient"
            )

    def _check_mode(self, mode: Mode) -> None:
        if mode.guarantees and (self.class_counts or self.scores):
            raise SettingsError(
                f"policy.mode {self.mode} guarantees privacy, and class counts and scores are of "
                "private images without noise; set class_counts and scores to false"
            )
        if mode.guarantees and self.batch_statistics:
            raise SettingsError(
                f"policy.mode {self.mode} guarantees privacy, and no teacher with a guarantee has "
                "batch norm; set batch_statistics to false"
            )
        if mode.charged and self.budget is None:
            raise SettingsError(
                f"policy.mode {self.mode} needs a policy.budget of epsilon and delta, to which "
                "answers are charged"
            )
        if self.budget is not None and not mode.guarantees:
            raise SettingsError(
                f"policy.mode {self.mode} has no policy.budget: it guarantees nothing; choose a "
                "mode that does"
            )
        if not mode.charged:
            if self.noise is not None:
                raise SettingsError(f"policy.noise beside mode {self.mode}, which adds none")
            return
        if self.reduced or self.pull_back or self.signals != {Signal.LOGITS}:
            raise SettingsError(
                f"policy.mode {self.mode} answers logits, with noise: no other signal, no gradient "
                "and no reduction; name logits alone"
            )
        if self.noise is None and not self.samples:
            raise SettingsError("policy.noise: say it, or policy.samples, from which it is found")

    @property
    def reduced(self) -> bool:
        """Whether less is released than the teacher's logits."""
        return self.labels or self.top_k is not None or self.rounding is not None

    def refusal(self, request: Ask | PullBack, server: str, at: time) -> Refusal | None:
        """Why ``request`` may not be answered whatever the ledger states; None where it may.

        Args:
            request: as it was received.
            server: host:port that was dialled, "" where nobody dialled.
            at: local time of day.
        """
        if self.servers is not None and server not in self.servers:
            return Refusal(Reason.FORBIDDEN, "this server is not answered here")
        if self.hours is not None and not _between(*self.hours, at):
            start, end = self.hours
            return Refusal(
                Reason.CLOSED, f"asked out of hours; answers from {start:%H:%M} to {end:%H:%M} here"
            )
        if isinstance(request, PullBack) and not self.pull_back:
            return Refusal(Reason.FORBIDDEN, "gradients are not released here")
        if request.batch_statistics and not self.batch_statistics:
            return Refusal(Reason.FORBIDDEN, "batch statistics are not used for answers here")
        asked = request.signals if isinstance(request, Ask) else frozenset(request.cotangents)
        if forbidden := asked - self.signals:
            names = ", ".join(sorted(forbidden))
            return Refusal(Reason.FORBIDDEN, f"not released here: {names}")
        if (count := len(request.images)) > self.largest_batch:
            return Refusal(
                Reason.TOO_LARGE,
                f"asked about {count} images at once, at most {self.largest_batch} are taken",
            )
        whole = request.batch_statistics or bool(asked & WHOLE_BATCH)
        if isinstance(request, PullBack) and whole and count > LARGEST_WHOLE_PULL_BACK:
            return Refusal(
                Reason.TOO_LARGE,
                f"a gradient through {count} images as one, at most {LARGEST_WHOLE_PULL_BACK} are "
                "taken",
            )
        return None

    def examination_cap_refusal(self, examined: int) -> Refusal | None:
        """Why no further student may be evaluated, after so many; None where one may."""
        if self.examinations is None or examined < self.examinations:
            return None
        text = f"all {self.examinations} examinations of students are spent here"
        return Refusal(Reason.SPENT, text)

    def sample_cap_refusal(self, count: int, spent: int, in_last_hour: int) -> Refusal | None:
        """Why ``count`` more samples are too many; None where they are not.

        Args:
            count: asked about now, and never before.
            spent: charged so far.
            in_last_hour: of these, charged in the last sixty minutes.
        """
        caps = (
            (Reason.SPENT, self.samples, spent, "are left"),
            (Reason.RATE, self.samples_per_hour, in_last_hour, "are left in this hour"),
        )
        for reason, cap, used, text in caps:
            if cap is not None and used + count > cap:
                left = max(0, cap - used)  # the owner may have lowered the cap below what is spent
                return Refusal(reason, f"asked about {count} images, {left} of {cap} {text}")
        return None


def budget_refusal(count: int, asked: int, left: int, cap: int) -> Refusal:
    """The refusal of a query whose cost exceeds what is left of the privacy budget.

    Args:
        count: samples of the query.
        asked: micro-rho that they cost; those that were answered before cost nothing.
        left: micro-rho.
        cap: micro-rho.
    """
    return Refusal(
        Reason.SPENT,
        f"asked about {count} images for {asked} micro-rho of privacy, {left} of {cap} are left",
    )


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_time_range(hours: tuple[time, time]) -> bool:
    return (
        len(hours) == 2
        and all(isinstance(each, time) and each.tzinfo is None for each in hours)
        and hours[0] != hours[1]
    )


def _between(start: time, end: time, at: time) -> bool:
    """Whether ``at`` is in [start, end), which passes midnight where start > end."""
    return start <= at < end if start < end else at >= start or at < end
