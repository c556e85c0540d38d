"""THE DOOR: the only way out of an institution. Knows a policy and a teacher, and no network.

A request is held against the owner's policy and checked for shape and range before the teacher
sees it; what comes back is checked again, counted and cast to the type that travels. Nothing
else of the institution has a way to the other side.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.privacy.policy import Policy
from fedkd.signals import Ask, Card, PullBack, Reason, Refusal, Reply, Signal, rounded
from fedkd.teacher import Teacher


@dataclass
class Tally:
    """What has been told so far, in samples."""

    asked: int = 0
    pulled_back: int = 0
    refused: int = 0

    @property
    def samples(self) -> int:
        """Everything that counts against the policy's cap."""
        return self.asked + self.pulled_back


class Door:
    """Lets out what the policy names, and counts it.

    Args:
        policy: the owner's word.
        teacher: answers; private.
        card: what has been told of shape and classes.
    """

    def __init__(self, policy: Policy, teacher: Teacher, card: Card) -> None:
        self._policy, self._teacher, self._card = policy, teacher, card
        self._lock = threading.Lock()
        self.tally = Tally()

    def answer(self, request: Ask | PullBack) -> Reply | Refusal:
        """A reply, or a refusal whose text is fit for the other side. Never raises.

        Samples are counted before the teacher is asked, and not given back if it fails.
        """
        refusal = self._malformed(request) or self._charge(request)
        if refusal is None:
            try:
                return self._release(request)
            except Exception:  # the cause is private: neither its text nor its type may leave
                refusal = Refusal(Reason.FAILED, "the teacher could not answer")
        with self._lock:
            self.tally.refused += 1
        return refusal

    def _charge(self, request: Ask | PullBack) -> Refusal | None:
        with self._lock:
            objection = self._policy.objection(request, self.tally.samples)
            if objection is None and isinstance(request, Ask):
                self.tally.asked += len(request.images)
            elif objection is None:
                self.tally.pulled_back += len(request.images)
            return objection

    def _release(self, request: Ask | PullBack) -> Reply | Refusal:
        if isinstance(request, PullBack):
            gradient = self._teacher.pull_back(request.images, request.cotangents)
            return Reply(gradient=_finite(gradient))
        said = self._teacher.ask(request.images, request.signals)
        return Reply({s: rounded(_finite(said[s]), s, request.exact) for s in request.signals})

    def _malformed(self, request: Ask | PullBack) -> Refusal | None:
        images, shape = request.images, self._card.shape
        if images.dim() != 4 or tuple(images.shape[1:]) != shape or not len(images):
            return Refusal(
                Reason.MALFORMED, f"images of {tuple(images.shape)}; expected (B, {shape})"
            )
        if images.dtype != torch.uint8 and not _unit(images):
            return Refusal(Reason.MALFORMED, "expected uint8 images, or finite ones in [0, 1]")
        if isinstance(request, PullBack):
            return self._malformed_cotangents(request.cotangents, len(images))
        return None if request.signals else Refusal(Reason.MALFORMED, "no signal was asked for")

    def _malformed_cotangents(
        self, cotangents: Mapping[Signal, Tensor], batch: int
    ) -> Refusal | None:
        known = {Signal.LOGITS: (batch, self._card.classes), Signal.BN_GAP: ()}
        for signal, cotangent in cotangents.items():
            if not (cotangent.is_floating_point() and bool(cotangent.isfinite().all())):
                return Refusal(Reason.MALFORMED, f"the cotangent of {signal} is not finite floats")
            # How many features there are is on no card: D is as it comes.
            expected = known.get(signal, (batch, *cotangent.shape[-1:]))
            if tuple(cotangent.shape) != expected:
                return Refusal(
                    Reason.MALFORMED, f"a cotangent of shape {expected} is needed for {signal}"
                )
        return None if cotangents else Refusal(Reason.MALFORMED, "no cotangent was given")


def _unit(images: Tensor) -> bool:
    return images.is_floating_point() and bool(((images >= 0) & (images <= 1)).all())


def _finite(value: Tensor) -> Tensor:
    if not bool(value.isfinite().all()):
        raise ArithmeticError("a teacher's value is not finite")
    return value
