"""THE DOOR: the only way out of an institution. Knows a policy, books and a release; no network.

A request is checked for shape, type and range, then held against the owner's policy and charged in
his books, in samples and in privacy, and only then seen by the teacher, through the release that
the policy's mode names. What comes back is checked again and cast to the type that travels. An
answer with noise is kept in the books before it is told, and told again to whoever asks again.
Nothing else of the institution has a way to the other side.
"""

from collections.abc import Mapping
from hashlib import blake2b

import torch
from torch import Tensor

from fedkd.client.ledger.answer_cache import PrivacyCost
from fedkd.client.ledger.hash_chain import LedgerTotals
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.ledger.privacy_accountant import price_of
from fedkd.client.release.release_mode import ReleaseMode
from fedkd.privacy import MODES, Policy
from fedkd.protocol import Ask, Card, PullBack, Reason, Refusal, Reply, Signal, as_float, rounded

FAILED = Refusal(Reason.FAILED, "the teacher could not answer")
UNREADABLE = Refusal(Reason.MALFORMED, "a question that cannot be read")


class ReleaseGate:
    """Lets out what the policy names, and charges it first.

    Args:
        policy: the owner's word.
        release: answers, as the policy's mode has it; private.
        card: what has been told of shape and classes.
        ledger: the owner's books; None keeps them in memory.
        mark: of this teacher, up to 64 bytes: what another answered before is no repeat.
        data_set: what answers tell of and are charged to, as the books name it.
    """

    def __init__(
        self,
        policy: Policy,
        release: ReleaseMode,
        card: Card,
        ledger: Ledger | None = None,
        mark: bytes = b"",
        data_set: str = "",
    ) -> None:
        self._policy, self._release, self._card = policy, release, card
        self._ledger = Ledger(None) if ledger is None else ledger
        # Another mode, or other noise, gives other answers.
        named = release.name.encode()
        self._mark = blake2b(named, key=mark, digest_size=16).digest() if named else mark
        self._data_set = data_set

    @property
    def tally(self) -> LedgerTotals:
        """What has been charged and refused, as the books have it.

        Raises:
            DataError: they cannot be read.
        """
        return self._ledger.totals

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
                return self._ledger.record_refusal(request, refusal, server)
        except Exception:
            return UNREADABLE
        try:
            price = self._price(request)
            whose = (server, self._mark, price, self._data_set)
            if refusal := self._ledger.charge(request, self._policy, *whose):
                return refusal
            try:
                return self._answer(request, price)
            except Exception:
                return self._ledger.record_refusal(request, FAILED, server)
        except Exception:
            return FAILED

    def _price(self, request: Ask | PullBack) -> PrivacyCost | None:
        """In privacy; None where answers cost none. Gradients no mode that charges lets out."""
        if isinstance(request, PullBack) or not MODES[self._policy.mode].charged:
            return None
        # The same image may come as bytes or as floats, and as a zero of either sign.
        pixels = (as_float(request.images) + 0.0).contiguous().numpy()
        rows = tuple(
            blake2b(row.tobytes(), key=self._mark, digest_size=16).digest() for row in pixels
        )
        return price_of(self._policy, rows, self._release.cost)

    def _answer(self, request: Ask | PullBack, price: PrivacyCost | None) -> Reply:
        if isinstance(request, PullBack):
            gradient = self._release.pulled_back(request.images, request.cotangents)
            return Reply(gradient=_sound(gradient, tuple(request.images.shape)))
        if price is None:
            said = self._release.ask(request.images, request.signals)
        else:
            said = {Signal.LOGITS: self._paid(request.images, price)}
        return Reply({s: self._checked(said[s], s, request) for s in request.signals})

    def _paid(self, images: Tensor, price: PrivacyCost) -> Tensor:
        """NoisyRelease logits of images that are charged; drawn once for each, and kept."""
        books, place = self._ledger.answer_cache, {row: i for i, row in enumerate(price.keys)}
        known = cache.get(price.keys)
        new = [row for row in place if row not in known]
        if new:
            cache.store(new, self._release.draw(images[[place[row] for row in new]]))
            known |= cache.get(new)  # another process may have been quicker
        return self._release.say(torch.stack([known[row] for row in price.keys]))

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
    return bool(torch.amin(images) >= low) and bool(torch.amax(images) <= high)


def _sound(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``value`` without a graph, if it is finite float32 of that shape; raises otherwise."""
    if value.dtype != torch.float32 or tuple(value.shape) != shape:
        raise ArithmeticError("a teacher's value has another type or shape than it must")
    if not bool(value.isfinite().all()):
        raise ArithmeticError("a teacher's value is not finite")
    return value.detach()
