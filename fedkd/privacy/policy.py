"""What an owner lets out. Knows no teacher and no network; the door in ``client`` obeys it."""

from dataclasses import dataclass
from datetime import time

from fedkd.signals import Ask, PullBack, Reason, Refusal, Signal


@dataclass(frozen=True)
class Policy:
    """The owner's word. What is not named here is refused."""

    signals: frozenset[Signal] = frozenset({Signal.LOGITS})
    """Signals that may be asked for."""
    pull_back: bool = False
    """Whether gradients of those signals may be asked for: a release like any other."""
    samples: int | None = None
    """Most images answered, pulled back ones included; None for no cap."""
    largest_batch: int = 4096
    class_counts: bool = False
    """Whether the number of training images of each class may be told."""
    scores: bool = False
    """Whether the accuracy of a student on the private test data may be told."""
    samples_per_hour: int | None = None
    """Most images answered within any hour; None for no cap."""
    hours: tuple[time, time] | None = None
    """Local time of day in which questions are answered; may pass midnight. None: always."""
    servers: frozenset[str] | None = None
    """host:port of the coordinators that may be dialled; None: whoever the owner names."""
    shape: tuple[int, int, int] | None = None
    """(C, H, W) of the images that are taken; None: the teacher's."""
    low: float = 0.0
    """Least value of a pixel that is taken, images in [0, 1]."""
    high: float = 1.0
    """Greatest one."""
    mode: str = "none"
    """Of privacy."""

    def objection(self, request: Ask | PullBack, spent: int) -> Refusal | None:
        """Why ``request`` may not be answered after ``spent`` samples; None where it may."""
        asked = request.signals if isinstance(request, Ask) else frozenset(request.cotangents)
        if isinstance(request, PullBack) and not self.pull_back:
            return Refusal(Reason.FORBIDDEN, "gradients are not released here")
        if forbidden := asked - self.signals:
            names = ", ".join(sorted(forbidden))
            return Refusal(Reason.FORBIDDEN, f"not released here: {names}")
        count = len(request.images)
        if count > self.largest_batch:
            return Refusal(
                Reason.TOO_LARGE,
                f"asked about {count} images at once, at most {self.largest_batch} are taken",
            )
        if self.samples is not None and spent + count > self.samples:
            left = self.samples - spent
            return Refusal(
                Reason.SPENT, f"asked about {count} images, {left} of {self.samples} are left"
            )
        return None
