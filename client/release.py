"""THE DOOR: the only way out of an institution. Knows a policy, books and a teacher; no network.

A request is checked for shape, type and range, then held against the owner's policy and charged in
his books, and only then seen by the teacher. What comes back is checked again and cast to the type
that travels. Nothing else of the institution has a way to the other side.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from client.ledger import Ledger
from fedkd.privacy.policy import Policy
from fedkd.signals import Ask, Card, PullBack, Reason, Refusal, Reply, Signal, rounded
from fedkd.teacher import Teacher

FAILED = Refusal(Reason.FAILED, "the teacher could not answer")
UNREADABLE = Refusal(Reason.MALFORMED, "a question that cannot be read")


class Door:
    """Lets out what the policy names, and charges it first.

    Args:
        policy: the owner's word.
        teacher: answers; private.
        card: what has been told of shape and classes.
        ledger: the owner's books.
        mark: of this teacher, up to 64 bytes: what another answered before is no repeat.
    """

    def __init__(
        self, policy: Policy, teacher: Teacher, card: Card, ledger: Ledger, mark: bytes = b""
    ) -> None:
        self._policy, self._teacher, self._card = policy, teacher, card
        self._ledger, self._mark = ledger, mark

    def answer(self, request: Ask | PullBack, server: str = "") -> Reply | Refusal:
        """A reply, or a refusal whose text is fit for the other side. Never raises.

        Samples are charged before the teacher is asked, and not given back if it fails.

        Args:
            request: as it came; nothing of it is trusted.
            server: host:port that asks, "" where nobody dialled.
        """
        # Causes are private throughout: neither their text nor their type may leave.
        try:
            if refusal := self._malformed(request):
                return self._ledger.refuse(request, refusal, server)
        except Exception:
            return UNREADABLE
        try:
            if refusal := self._ledger.charge(request, self._policy, server, self._mark):
                return refusal
            try:
                return self._release(request)
            except Exception:
                return self._ledger.refuse(request, FAILED, server)
        except Exception:
            return FAILED

    def _release(self, request: Ask | PullBack) -> Reply:
        if isinstance(request, PullBack):
            gradient = self._teacher.pull_back(request.images, request.cotangents)
            return Reply(gradient=_sound(gradient, tuple(request.images.shape)))
        said = self._teacher.ask(request.images, request.signals)
        return Reply({s: self._checked(said[s], s, request) for s in request.signals})

    def _checked(self, value: Tensor, signal: Signal, ask: Ask) -> Tensor:
        sound = _sound(value, self._shape(signal, len(ask.images), value))
        return rounded(sound, signal, ask.exact)

    def _shape(self, signal: Signal, batch: int, value: Tensor) -> tuple[int, ...]:
        """Of a signal. How many features there are is on no card: D is as it comes in ``value``."""
        match signal:
            case Signal.LOGITS:
                return batch, self._card.classes
            case Signal.BN_GAP:
                return ()
            case Signal.FEATURES:
                return batch, *value.shape[-1:]

    def _malformed(self, request: Ask | PullBack) -> Refusal | None:
        """What is wrong with ``request`` in itself; None where nothing is."""
        images, shape = request.images, self._card.shape
        if images.dim() != 4 or tuple(images.shape[1:]) != shape or not len(images):
            return _malformed(f"images of {tuple(images.shape)}; expected (B, {shape})")
        low, high = self._policy.low, self._policy.high
        if not _within(images, low, high):
            return _malformed(f"expected uint8 images, or float32 ones, in [{low:g}, {high:g}]")
        if isinstance(request, PullBack):
            return self._malformed_cotangents(request.cotangents, len(images))
        return None if request.signals else _malformed("no signal was asked for")

    def _malformed_cotangents(
        self, cotangents: Mapping[Signal, Tensor], batch: int
    ) -> Refusal | None:
        for signal, cotangent in cotangents.items():
            if cotangent.dtype != torch.float32 or not bool(cotangent.isfinite().all()):
                return _malformed(f"the cotangent of {signal} is not of finite float32")
            expected = self._shape(signal, batch, cotangent)
            if tuple(cotangent.shape) != expected or 0 in expected:
                return _malformed(f"a cotangent of shape {expected} is needed for {signal}")
        return None if cotangents else _malformed("no cotangent was given")


def _malformed(text: str) -> Refusal:
    return Refusal(Reason.MALFORMED, text)


def _within(images: Tensor, low: float, high: float) -> bool:
    """Whether every pixel lies in [low, high]; a NaN lies nowhere."""
    if images.dtype == torch.uint8:
        if (low, high) == (0.0, 1.0):
            return True
        low, high = 255 * low, 255 * high
    elif images.dtype != torch.float32:
        return False
    # A NaN anywhere is both the least and the greatest, and compares with nothing.
    least, greatest = torch.aminmax(images)
    return bool(least >= low) and bool(greatest <= high)


def _sound(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``value`` without a graph, if it is finite float32 of that shape; raises otherwise."""
    if value.dtype != torch.float32 or tuple(value.shape) != shape:
        raise ArithmeticError("a teacher's value has another type or shape than it must")
    if not bool(value.isfinite().all()):
        raise ArithmeticError("a teacher's value is not finite")
    return value.detach()
