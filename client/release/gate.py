"""Release gate: check, charge and answer requests; the only way out of an institution.

A request is checked for shape, type and range. Then it is held against the owner's policy and
charged in the ledger, in samples and in privacy. Only then does the teacher see it, through the
policy's release mode. The answer is checked again and rounded to the type on the wire. A noisy
answer is cached in the ledger before it is released, and the same sample gets it again. Nothing
else of the institution reaches the other side.
"""

import contextlib
from collections.abc import Mapping
from hashlib import blake2b

import torch
from torch import Tensor

from fedkd.client.ledger.answer_cache import PrivacyCost
from fedkd.client.ledger.hash_chain import LedgerTotals
from fedkd.client.ledger.ledger import Ledger
from fedkd.client.ledger.privacy_accountant import privacy_cost
from fedkd.client.release.release_mode import ReleaseMode
from fedkd.errors import DataError
from fedkd.privacy import MODES, Policy
from fedkd.protocol import (
    Ask,
    Card,
    PullBack,
    Reason,
    Recipe,
    Refusal,
    Reply,
    Signal,
    as_float,
    rounded,
)

FAILED = Refusal(Reason.FAILED, "the teacher could not answer")
UNREADABLE = Refusal(Reason.MALFORMED, "a query that cannot be read")
NOT_FREE = Refusal(Reason.UNDRAWN, "too little is left to draw these images; show them")
"""A repeat is free, and is told by its images alone. So they have to be sent where the budget does
not suffice for new ones."""


class ReleaseGate:
    """Releases what the policy allows, and charges it first.

    Args:
        policy: the owner's.
        release: gives the answers, in the policy's mode; private.
        card: has the shape and the classes.
        ledger: the owner's; None keeps one in memory.
        teacher_fingerprint: up to 64 bytes; what another teacher answered without noise is no
            repeat. Answers with noise are repeated whatever teacher gave them.
        data_set: that the answers depend on and are charged to, by its name in the ledger.
    """

    def __init__(
        self,
        policy: Policy,
        release: ReleaseMode,
        card: Card,
        ledger: Ledger | None = None,
        teacher_fingerprint: bytes = b"",
        data_set: str = "",
    ) -> None:
        self._policy, self._release, self._card = policy, release, card
        self._ledger = Ledger(None) if ledger is None else ledger
        # Another mode, or other noise, gives other answers.
        name, known = release.name.encode(), teacher_fingerprint
        if MODES[policy.mode].charged:
            # Whether an answer is a repetition is told without noise. So it must not tell whether
            # the private samples are those of before, as a digest of the teacher would.
            public = (card.name, card.shape, card.classes, card.class_names, card.numbers)
            known = blake2b(repr(public).encode(), digest_size=16).digest()
        self._source = blake2b(name, key=known, digest_size=16).digest() if name else known
        self._data_set = data_set

    @property
    def totals(self) -> LedgerTotals:
        """What has been charged and refused, by the ledger.

        Raises:
            DataError: it cannot be read.
        """
        return self._ledger.totals

    def answer(self, request: Ask | PullBack, server: str = "") -> Reply | Refusal:
        """A reply, or a refusal whose text is fit for the other side. Never raises.

        Samples are charged before the teacher is asked, and not given back if it fails.

        Args:
            request: as it came; nothing of it is trusted.
            server: host:port of the coordinator that asks, "" in simulations.
        """
        # Causes are private throughout: neither their text nor their type may leave.
        try:
            if refusal := self._malformed(request):
                return self._ledger.record_refusal(request, refusal, server)
        except Exception:
            return UNREADABLE
        try:
            cost = self._privacy_cost(request)
            if refusal := self._ledger.charge(
                request, self._policy, server, self._source, cost, self._data_set
            ):
                return refusal
            try:
                return self._answer(request, cost)
            except Exception:
                return self._ledger.record_refusal(request, FAILED, server)
        except Exception:
            return FAILED

    def recipe_refusal(
        self,
        recipe: Recipe,
        signals: frozenset[Signal],
        batch_statistics: bool = False,
        server: str = "",
    ) -> Refusal | None:
        """Why a recipe is not to be rendered; None where it may be. Never raises.

        All is checked that `answer` would refuse and that can be known without the samples. A
        refusal is logged in the ledger.
        """
        try:
            outline = self._outline(len(recipe), signals, batch_statistics)
            if why := _signal_violation(outline):
                refusal: Refusal | None = _malformed(why)
            elif refusal := self._ledger.policy_refusal(outline, self._policy, server):
                pass
            elif not self._ledger.suffices(
                outline.images.shape[0],
                self._policy,
                privacy_cost(self._policy, (), self._release.cost),
                self._data_set,
            ):
                refusal = NOT_FREE
            if refusal is not None:
                return self._ledger.record_refusal(outline, refusal, server)
        except (
            DataError
        ):  # of a ledger that cannot be read: what it says then goes to its owner too
            return self._ledger.record_refusal(outline, FAILED, server)
        except Exception:
            return FAILED
        return None

    def record_unrendered(
        self, recipe: Recipe, signals: frozenset[Signal], refusal: Refusal, server: str = ""
    ) -> None:
        """Log that a recipe was not rendered, or not to the images it should be; never raises."""
        with contextlib.suppress(Exception):
            self._ledger.record_refusal(self._outline(recipe.count, signals), refusal, server)

    def _outline(
        self, count: int, signals: frozenset[Signal], batch_statistics: bool = False
    ) -> Ask:
        """A query of that size, whose samples take no memory."""
        images = torch.zeros(()).expand(count, *self._card.shape)
        return Ask(images, signals, batch_statistics=batch_statistics)

    def _privacy_cost(self, request: Ask | PullBack) -> PrivacyCost | None:
        """None where answers cost no privacy. No mode that charges privacy releases gradients."""
        if isinstance(request, PullBack) or not MODES[self._policy.mode].charged:
            return None
        # The same image may come as bytes or as floats, and as a zero of either sign.
        pixels = (as_float(request.images) + 0.0).contiguous().numpy()
        keys = tuple(
            blake2b(row.tobytes(), key=self._source, digest_size=16).digest() for row in pixels
        )
        return privacy_cost(self._policy, keys, self._release.cost)

    def _answer(self, request: Ask | PullBack, cost: PrivacyCost | None) -> Reply:
        if isinstance(request, PullBack):
            gradient = self._release.gradient(
                request.images, request.cotangents, request.batch_statistics
            )
            return Reply(gradient=_validated(gradient, tuple(request.images.shape)))
        if cost is None:
            values = self._release.ask(request.images, request.signals, request.batch_statistics)
        else:
            values = {Signal.LOGITS: self._noisy_logits(request.images, cost)}
        return Reply({s: self._checked(values[s], s, request) for s in request.signals})

    def _noisy_logits(self, images: Tensor, cost: PrivacyCost) -> Tensor:
        """Noisy logits of charged samples; the noise is drawn once for each, and cached."""
        cache, place = self._ledger.answer_cache, {key: i for i, key in enumerate(cost.keys)}
        known = cache.get(cost.keys)
        new = [key for key in place if key not in known]
        if new:
            cache.store(new, self._release.noisy_answers(images[[place[key] for key in new]]))
            known |= cache.get(new)  # another process may have stored its answer first
        return self._release.to_logits(torch.stack([known[key] for key in cost.keys]))

    def _checked(self, value: Tensor, signal: Signal, ask: Ask) -> Tensor:
        valid = _validated(value, self._shape(signal, len(ask.images), value))
        return rounded(valid, signal, ask.exact)

    def _shape(self, signal: Signal, batch: int, value: Tensor) -> tuple[int, ...]:
        """Shape of a signal. No card has the number of features: D is taken from ``value``."""
        match signal:
            case Signal.LOGITS:
                return batch, self._card.classes
            case Signal.BN_GAP | Signal.ACTIVATION:
                return ()
            case Signal.FEATURES:
                return batch, *value.shape[-1:]
            case Signal.RELATIONS:
                return batch, batch

    def _malformed(self, request: Ask | PullBack) -> Refusal | None:
        """The refusal of a malformed request; None where it is well formed."""
        images, shape = request.images, self._card.shape
        if images.dim() != 4 or tuple(images.shape[1:]) != shape or not len(images):
            return _malformed(f"samples of {tuple(images.shape)}; expected (B, {shape})")
        low, high = self._policy.low, self._policy.high
        if not _within(images, low, high):
            return _malformed(f"expected uint8 images, or float32 ones, in [{low:g}, {high:g}]")
        if request.batch_statistics and not self._release.batch_statistics:
            return Refusal(Reason.FORBIDDEN, "batch statistics are not used for answers here")
        if why := _signal_violation(request):
            return _malformed(why)
        if isinstance(request, PullBack):
            return self._malformed_cotangents(request.cotangents, len(images))
        return None

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


def _signal_violation(request: Ask | PullBack) -> str | None:
    """What is wrong with the signals of a request, whatever the policy; None where nothing is."""
    signals = request.signals if isinstance(request, Ask) else request.cotangents.keys()
    if isinstance(request, Ask) and not signals:
        return "no signal was asked for"
    if request.batch_statistics and Signal.BN_GAP in signals:
        return "bn_gap is a distance from running statistics; ask for it without batch statistics"
    return None


def _malformed(text: str) -> Refusal:
    return Refusal(Reason.MALFORMED, text)


def _within(images: Tensor, low: float, high: float) -> bool:
    """Whether every pixel lies in [low, high]; a NaN does not."""
    if images.dtype == torch.uint8:
        if (low, high) == (0.0, 1.0):
            return True
        low, high = 255 * low, 255 * high
    elif images.dtype != torch.float32:
        return False
    # Where there is a NaN, amin and amax are NaN, and both comparisons are false.
    return bool(torch.amin(images) >= low) and bool(torch.amax(images) <= high)


def _validated(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``value`` without its graph, if it is finite float32 of that shape; raises otherwise."""
    if value.dtype != torch.float32 or tuple(value.shape) != shape:
        raise ArithmeticError("a teacher's value has another type or shape than it must")
    if not bool(value.isfinite().all()):
        raise ArithmeticError("a teacher's value is not finite")
    return value.detach()
