"""Cards of tables on the wire: columns and numbers arrive as they were sent, or are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import LocalProtocolError
from fedkd.protocol import Card, Column, Number, Signal
from fedkd.wire import Hello, Invalid, decode_from_institution, encode
from fedkd.wire.cards import SIGNAL_NUMBERS
from fedkd.wire.v1 import teacher_pb2 as pb

LOGITS = frozenset({Signal.LOGITS})
texts = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=64)
ends = st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)).map(lambda e: (e[0], e[0] + e[1]))
errors = st.none() | st.floats(1e-6, 1e6)


@st.composite
def columns(draw: st.DrawFn) -> tuple[Column, ...]:
    names = draw(st.lists(texts, min_size=1, max_size=6, unique=True))
    made = []
    for name in names:
        levels = draw(st.just(()) | st.lists(texts, min_size=2, max_size=5, unique=True))
        low, high = draw(ends)
        whole = draw(st.booleans()) and high - low >= 1
        made.append(Column(name, low, high, whole, tuple(levels)))
    return tuple(made)


@st.composite
def numbers(draw: st.DrawFn) -> tuple[Number, ...]:
    names = draw(st.lists(texts, max_size=4, unique=True))
    units = st.just("") | texts
    return tuple(Number(name, draw(units), *draw(ends), draw(errors)) for name in names)


@given(columns(), numbers())
def test_columns_and_numbers_arrive_as_they_were_sent(
    table: tuple[Column, ...], predicted: tuple[Number, ...]
) -> None:
    shape = (1, 1, len(table))
    card = Card("north", len(predicted) or 3, shape, LOGITS, columns=table, numbers=predicted)
    heard = decode_from_institution(encode(Hello(1, "token", card)))
    assert heard == Hello(1, "token", card)


TABLE = (Column("age", 18.0, 100.0), Column("ward", levels=("a", "b")))


def hello(**fields: object) -> bytes:
    """A Hello as any plain gRPC client would write it, and no check of ours."""
    card = pb.Card(
        name="north",
        classes=1,
        channels=1,
        height=1,
        width=2,
        signals=[SIGNAL_NUMBERS[Signal.LOGITS]],
        largest_batch=64,
        columns=[pb.Column(**vars(column)) for column in TABLE],
        numbers=[pb.Number(name="stay", high=60.0)],
    )
    for name, value in fields.items():
        if isinstance(value, list):
            card.ClearField(name)
            getattr(card, name).extend(value)
        else:
            setattr(card, name, value)
    message = pb.ConnectRequest(hello=pb.Hello(version=1, token="token", card=card))
    written: bytes = message.SerializeToString()
    return written


def test_the_plain_card_is_accepted() -> None:
    assert isinstance(decode_from_institution(hello()), Hello)


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 3},
        {"classes": 2},
        {"class_names": ["one"]},
        {"class_counts": [7]},
        {"columns": [pb.Column(name="a", high=1.0), pb.Column(name="a", high=1.0)]},
        {"columns": [pb.Column(name="a", high=1.0), pb.Column(name="b", high=float("nan"))]},
        {"columns": [pb.Column(name="a", high=1.0), pb.Column(name="\x1b[31m", high=1.0)]},
        {"columns": [pb.Column(name="a", high=1.0), pb.Column(name="b", levels=["one"])]},
        {"columns": [pb.Column(name="a", low=1.0, high=1.0), pb.Column(name="b", high=1.0)]},
        {"numbers": [pb.Number(name="stay", low=1.0, high=0.0)]},
        {"numbers": [pb.Number(name="stay", high=float("inf"))]},
        {"numbers": [pb.Number(name="stay", high=1.0, error=-1.0)]},
        {"numbers": [pb.Number(name="a" * 65, high=1.0)]},
    ],
)
def test_impossible_tables_are_refused(fields: dict[str, object]) -> None:
    heard = decode_from_institution(hello(**fields))
    assert isinstance(heard, Invalid)
    assert "\x1b" not in str(heard)


def test_an_impossible_table_is_not_sent_either() -> None:
    card = Card("north", 1, (1, 1, 3), LOGITS, columns=TABLE, numbers=(Number("stay"),))
    with pytest.raises(LocalProtocolError):
        encode(Hello(1, "token", card))
