"""What an owner lets out. Knows no teacher and no network; the door in ``client`` obeys it.

Everything here is a pure function of the policy and what it is told: the time, and what the books
say, are the caller's.
"""

from dataclasses import dataclass
from datetime import time
from fractions import Fraction

from fedkd.errors import SettingsError
from fedkd.privacy.budget import Budget
from fedkd.protocol import Ask, PullBack, Reason, Refusal, Signal


@dataclass(frozen=True)
class Mode:
    """What a way to make answers private asks of a policy."""

    promises: bool
    """It promises differential privacy, beside which nothing without noise may be told."""
    charged: bool
    """Every answer has noise, and is paid for out of a budget."""
    protects_data_set: bool = False
    """Its promise is of the whole data set, and not of one image."""


MODES = {
    "none": Mode(promises=False, charged=False),
    "dp-teacher": Mode(promises=True, charged=False),
    "pate": Mode(promises=True, charged=True),
    "local-dp": Mode(promises=True, charged=True, protects_data_set=True),
}
"""Ways to make answers private, see `fedkd.client.release`; ``none`` promises nothing."""


@dataclass(frozen=True)
class Policy:
    """The owner's word. What is not named here is refused.

    Raises:
        SettingsError: a value that no policy can have.
    """

    signals: frozenset[Signal] = frozenset({Signal.LOGITS})
    """Signals that may be asked for."""
    pull_back: bool = False
    """Whether gradients of those signals may be asked for: a release like any other."""
    samples: int | None = None
    """Most images answered, pulled back ones included; None for no cap. What was answered before
    is charged once, so its repetition is not counted here."""
    largest_batch: int = 4096
    class_counts: bool = False
    """Whether the number of training images of each class may be told."""
    scores: bool = False
    """Whether the accuracy of a student on the private test data may be told."""
    examinations: int | None = None
    """Most students of which that is told; None for no cap. One that comes again counts once."""
    samples_per_hour: int | None = None
    """Most images charged in any sixty minutes; None for no cap."""
    hours: tuple[time, time] | None = None
    """Local time of day from which, and until which, questions are answered; may pass midnight."""
    servers: frozenset[str] | None = None
    """host:port of the servers that are answered; None for all that the agent is told to dial."""
    shape: tuple[int, int, int] | None = None
    """(C, H, W) of the images that are taken; None for the teacher's."""
    low: float = 0.0
    """Least value of a pixel that is taken, images in [0, 1]."""
    high: float = 1.0
    """Greatest value of a pixel that is taken."""
    recipes: bool = True
    """Whether images may be named by recipe and are then drawn here; else they have to be shown."""
    labels: bool = False
    """Only which class the teacher names is told. Like the next two it discloses less and
    promises nothing."""
    top_k: int | None = None
    """Only the probabilities of so many classes are told."""
    rounding: int | None = None
    """Decimal digits to which probabilities are told."""
    mode: str = "none"
    """How answers are made private, one of `MODES`."""
    budget: Budget | None = None
    """All that the images may cost, in every promising mode together. dp-teacher can do without:
    then what trainings have cost is told, and not bounded."""
    noise: Fraction | None = None
    """Its standard deviation, in votes or in logits; None for the least with which ``samples``
    images are answered within the budget."""
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
            if not (_whole(value, least) or (value is None and name != "largest_batch")):
                raise SettingsError(f"policy.{name} = {value!r}: expected an integer >= {least}")
        if self.hours is not None and not _daytime(self.hours):
            raise SettingsError("policy.hours: expected two different local times without a zone")
        for server in self.servers or ():
            host, _, port = server.rpartition(":")
            if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
                raise SettingsError(f"policy.servers names {server!r}: expected host:port")
        if self.shape is not None and not (
            len(self.shape) == 3 and all(_whole(side, 1) for side in self.shape)
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
        for name in ("top_k", "rounding"):
            value = getattr(self, name)
            if value is not None and not (_whole(value, 1) and value <= 1000):
                raise SettingsError(f"policy.{name} = {value!r}: expected an integer >= 1")
        if self.labels and (self.top_k or self.rounding):
            raise SettingsError("policy.labels leaves nothing for top_k or rounding; keep one")
        if self.reduced and (self.pull_back or self.signals != {Signal.LOGITS}):
            raise SettingsError(
                "policy.labels, top_k and rounding are of logits alone; release no other signal "
                "beside them, and no gradient"
            )

    def _check_mode(self, mode: Mode) -> None:
        if mode.promises and (self.class_counts or self.scores):
            raise SettingsError(
                f"policy.mode {self.mode} promises privacy, and class counts and scores are told "
                "of private images; no noise covers them, so set class_counts and scores to false"
            )
        if mode.charged and self.budget is None:
            raise SettingsError(
                f"policy.mode {self.mode} needs a policy.budget of epsilon and delta, to which "
                "answers are charged"
            )
        if self.budget is not None and not mode.promises:
            raise SettingsError(
                f"policy.mode {self.mode} has no policy.budget: it promises nothing; choose a mode "
                "that does"
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
        """Whether less is told than the teacher says."""
        return self.labels or self.top_k is not None or self.rounding is not None

    def refusal(self, request: Ask | PullBack, server: str, at: time) -> Refusal | None:
        """Why ``request`` may not be answered whatever the books say; None where it may.

        Args:
            request: as it came.
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
        asked = request.signals if isinstance(request, Ask) else frozenset(request.cotangents)
        if forbidden := asked - self.signals:
            names = ", ".join(sorted(forbidden))
            return Refusal(Reason.FORBIDDEN, f"not released here: {names}")
        if (count := len(request.images)) > self.largest_batch:
            return Refusal(
                Reason.TOO_LARGE,
                f"asked about {count} images at once, at most {self.largest_batch} are taken",
            )
        return None

    def examination_cap_refusal(self, examined: int) -> Refusal | None:
        """Why no further student may be examined, after so many; None where one may."""
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
        for reason, cap, used, words in caps:
            if cap is not None and used + count > cap:
                left = max(0, cap - used)  # the owner may have lowered the cap below what is spent
                return Refusal(reason, f"asked about {count} images, {left} of {cap} {words}")
        return None


def budget_refusal(count: int, asked: int, left: int, cap: int) -> Refusal:
    """A refusal of a question that the budget does not pay for.

    Args:
        count: images asked about.
        asked: micro-rho that they cost, those that were answered before costing nothing.
        left: micro-rho.
        cap: micro-rho.
    """
    return Refusal(
        Reason.SPENT,
        f"asked about {count} images for {asked} micro-rho of privacy, {left} of {cap} are left",
    )


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _daytime(hours: tuple[time, time]) -> bool:
    return (
        len(hours) == 2
        and all(isinstance(each, time) and each.tzinfo is None for each in hours)
        and hours[0] != hours[1]
    )


def _between(start: time, end: time, at: time) -> bool:
    """Whether ``at`` is in [start, end), which passes midnight where start > end."""
    return start <= at < end if start < end else at >= start or at < end
