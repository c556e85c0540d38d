"""Serialisation of cards and of the signals that they list; decoding of cards from recordings."""

from collections.abc import Sequence
from itertools import pairwise

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fedkd.errors import LocalProtocolError, SettingsError
from fedkd.protocol import Card, Column, Guarantee, NamedTask, Number, Signal
from fedkd.wire.payload_framing import split_envelope
from fedkd.wire.v1 import teacher_pb2 as pb

SIGNAL_NUMBERS = {signal: pb.Signal.Value(f"SIGNAL_{signal.name}") for signal in Signal}
"""Protobuf number of each signal; the signals of a message are in this order."""
_SIGNALS = {number: signal for signal, number in SIGNAL_NUMBERS.items()}


def encode_card(card: Card) -> pb.Card:
    """The message of ``card``, which the caller has checked."""
    channels, height, width = card.shape
    return pb.Card(
        name=card.name,
        classes=card.classes,
        channels=channels,
        height=height,
        width=width,
        signals=sorted(SIGNAL_NUMBERS[signal] for signal in card.signals),
        pull_back=card.pull_back,
        samples=card.samples,
        largest_batch=card.largest_batch,
        class_counts=card.class_counts,
        scores=card.scores,
        class_names=card.class_names,
        guarantee=None if card.guarantee is None else pb.Guarantee(**vars(card.guarantee)),
        recipes=card.recipes,
        columns=[pb.Column(**vars(column)) for column in card.columns],
        numbers=[pb.Number(**vars(number)) for number in card.numbers],
        fedkd_version=card.fedkd_version,
        tasks=[pb.Task(**vars(task)) for task in card.tasks],
        embedding=card.embedding,
        batch_statistics=card.batch_statistics,
    )


def decode_card(card: pb.Card) -> Card:
    """The card in a message; its numbers are for `fedkd.protocol.card_violation` to judge.

    Raises:
        LocalProtocolError: it is malformed.
    """
    if max(len(card.class_counts), len(card.class_names)) > card.classes:
        raise LocalProtocolError("a card with counts or names of more classes than it has")
    return Card(
        name=card.name,
        classes=card.classes,
        shape=(card.channels, card.height, card.width),
        signals=frozenset(increasing_signals(card.signals)),
        pull_back=card.pull_back,
        samples=card.samples if card.HasField("samples") else None,
        largest_batch=card.largest_batch,
        class_counts=tuple(card.class_counts) or None,
        scores=card.scores,
        class_names=tuple(card.class_names) or None,
        guarantee=_decode_guarantee(card.guarantee) if card.HasField("guarantee") else None,
        recipes=card.recipes,
        columns=tuple(_decode_column(column) for column in card.columns),
        numbers=tuple(_decode_number(number) for number in card.numbers),
        fedkd_version=card.fedkd_version,
        tasks=tuple(NamedTask(t.name, tuple(t.class_names), t.kind) for t in card.tasks),
        embedding=card.embedding,
        batch_statistics=card.batch_statistics,
    )


def _decode_column(column: pb.Column) -> Column:
    levels = tuple(column.levels)
    return Column(column.name, column.low, column.high, column.whole, levels)


def _decode_number(number: pb.Number) -> Number:
    error = number.error if number.HasField("error") else None
    return Number(number.name, number.unit, number.low, number.high, error)


def _decode_guarantee(guarantee: pb.Guarantee) -> Guarantee:
    try:
        return Guarantee(
            guarantee.epsilon,
            guarantee.delta,
            guarantee.steps,
            guarantee.noise_multiplier,
            guarantee.sampling_rate,
            guarantee.clipping,
            guarantee.unit,
            guarantee.adjacency,
            guarantee.mechanism,
            guarantee.accountant,
            guarantee.version,
            guarantee.unpromised,
        )
    except SettingsError:
        raise LocalProtocolError("a card with a guarantee that cannot be") from None


def decode_stored_card(frame: bytes) -> Card | None:
    """The card of a recorded Hello, however large its numbers; None if it is none.

    Earlier releases recorded cards that would be refused today, and whoever reads such a recording
    should learn whose card it is.
    """
    try:
        body, _ = split_envelope(frame)
        message = pb.ConnectRequest.FromString(body)
        return decode_card(message.hello.card) if message.HasField("hello") else None
    except (DecodeError, LocalProtocolError):
        return None


def increasing_signals(numbers: Sequence[int]) -> list[Signal]:
    """The signals of these increasing numbers, so that none occurs twice."""
    if len(numbers) > len(SIGNAL_NUMBERS) or any(number not in _SIGNALS for number in numbers):
        raise LocalProtocolError("an unknown signal")
    if any(second <= first for first, second in pairwise(numbers)):
        raise LocalProtocolError("signals twice or out of order")
    return [_SIGNALS[number] for number in numbers]
