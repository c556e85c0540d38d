"""Rows and numbers as values in [0, 1]: round trips, clipping, and what is out of bounds."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkd.errors import SettingsError
from fedkd.protocol import (
    Column,
    Number,
    check_table,
    decode_numbers,
    decode_rows,
    encode_numbers,
    encode_rows,
    level_index,
)
from fedkd.protocol.tables import MAX_COLUMNS, columns_violation, numbers_violation
from fedkd.synthesis import to_bytes

TABLE = (
    Column("age", 18.0, 100.0, whole=True),
    Column("dose", -2.0, 3.0),
    Column("ward", levels=("general", "intensive", "none")),
)


def leveled(count: int) -> tuple[Column, ...]:
    return (Column("level", levels=tuple(map(str, range(count)))),)


@given(st.integers(2, 256))
def test_every_level_survives_the_way_through_bytes(count: int) -> None:
    rows = torch.arange(float(count)).double()[:, None]
    samples = encode_rows(rows, leveled(count))
    assert torch.equal(decode_rows(samples, leveled(count)), rows)
    assert torch.equal(decode_rows(to_bytes(samples), leveled(count)), rows)


@given(st.integers(2, 256))
def test_a_byte_and_the_same_value_as_a_float_are_one_level(count: int) -> None:
    """A network reads float32 and an estimator bytes: they must see the same level."""
    every = torch.arange(256, dtype=torch.uint8)
    as_bytes = decode_rows(every[:, None, None, None], leveled(count))[:, 0]
    as_float = level_index(every.float() / 255, torch.tensor(float(count)))
    assert torch.equal(as_bytes, as_float.double())
    sizes = as_bytes.long().bincount(minlength=count)
    assert sizes.max() - sizes.min() <= 1  # so uniform bytes are uniform levels


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
    st.floats(0.0, 1.0),
)
def test_a_numeric_value_moves_by_half_a_step_at_most(low: float, span: float, at: float) -> None:
    column = Column("x", low, low + span)
    row = torch.tensor([[low + at * span]], dtype=torch.float64)
    back = decode_rows(to_bytes(encode_rows(row, (column,))), (column,))
    # The rest is float32's: seven digits of a share of the range.
    assert abs(float(back - row)) <= column.step * 0.501 + 1e-9 * abs(low)


def test_what_is_outside_of_a_range_is_clipped_to_its_end() -> None:
    rows = torch.tensor([[0.0, 99.0, 0.0], [200.0, -99.0, 2.0]], dtype=torch.float64)
    back = decode_rows(encode_rows(rows, TABLE), TABLE)
    assert back.tolist() == [[18.0, 3.0, 0.0], [100.0, -2.0, 2.0]]


def test_whole_columns_are_rounded_and_others_are_not() -> None:
    samples = torch.tensor([[0.5, 0.5, 0.5]])[:, None, None, :]
    age, dose, ward = decode_rows(samples, TABLE)[0].tolist()
    assert age == 59.0  # 18 + 0.5 * 82
    assert dose == 0.5
    assert ward == 1.0


@given(st.lists(st.floats(-50.0, 80.0), min_size=1, max_size=20))
def test_numbers_round_trip_within_their_range_and_are_clipped_beyond(values: list[float]) -> None:
    number = Number("stay", "days", 0.0, 60.0)
    given_values = torch.tensor(values, dtype=torch.float64)[:, None]
    back = decode_numbers(encode_numbers(given_values, (number,)), (number,))
    assert torch.allclose(back, given_values.clamp(0.0, 60.0), atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": ""}, "column 1: a name"),
        ({"name": "a\nb"}, "column 1: a name"),
        ({"name": "x" * 65}, "column 1: a name"),
        ({"name": "age"}, "two columns of one name"),
        ({"low": 3.0}, "a range from 3.0 to 3.0"),
        ({"high": float("inf")}, "a range from -2.0 to inf"),
        ({"low": float("nan")}, "a range from nan"),
        ({"low": -1.7e308, "high": 1.7e308}, "a range from"),  # finite ends, an infinite span
        ({"low": 0.0, "high": 5e-324}, "a range from"),  # a step of 0
        ({"low": -8e307, "high": 8e307}, "a range from"),  # which no plot holds
        ({"low": 1e6, "high": 1e6 + 1e-9}, "a range from"),  # of no 256 values
        ({"low": 0.2, "high": 0.8, "whole": True}, "no whole number"),
        ({"levels": ("one",)}, "1 levels, expected 2 to 256"),
        ({"levels": tuple(map(str, range(257)))}, "257 levels"),
        ({"levels": ("a", "a")}, "two levels of one name"),
        ({"levels": ("a", "\x1b[2J")}, "levels must be"),
    ],
)
def test_a_column_out_of_bounds_is_named_by_its_place(
    changed: dict[str, object], said: str
) -> None:
    columns = (TABLE[0], replace(TABLE[1], **changed), TABLE[2])  # type: ignore[arg-type]
    why = columns_violation(columns)
    assert why is not None
    assert said in why
    assert "\n" not in why
    assert "\x1b" not in why
    with pytest.raises(SettingsError, match="mend the schema"):
        check_table(columns)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": ""}, "name and unit"),
        ({"unit": "\t"}, "name and unit"),
        ({"high": 0.0}, "a range from 0.0 to 0.0"),
        ({"high": 5e-324}, "a range from 0.0 to 5e-324"),
        ({"high": 1e101}, "a range from 0.0 to 1e+101"),
        ({"error": 0.0}, "an error of 0.0"),
        ({"error": float("inf")}, "an error of inf"),
        ({"error": float("nan")}, "an error of nan"),
    ],
)
def test_a_number_out_of_bounds_is_named_by_its_place(
    changed: dict[str, object], said: str
) -> None:
    number = replace(Number("stay", "days", 0.0, 60.0), **changed)  # type: ignore[arg-type]
    why = numbers_violation((number,))
    assert why is not None
    assert why.startswith("number 0:")
    assert said in why


def test_tables_within_bounds_pass_and_too_wide_ones_do_not() -> None:
    assert columns_violation(TABLE) is None
    assert numbers_violation((Number("a"), Number("b", error=0.5))) is None
    nanoseconds = 1.7e18, 1.7e18 + 1e6  # since 1970, of one millisecond
    kilograms = (0.0, 1.7e-27), (0.0, 2e42)
    assert columns_violation([Column(str(e), *e) for e in (nanoseconds, *kilograms)]) is None
    wide = tuple(Column(f"x{place}") for place in range(MAX_COLUMNS + 1))
    assert columns_violation(wide[:-1]) is None
    assert "4097 columns" in (columns_violation(wide) or "")
    assert "two numbers of one name" in (numbers_violation((Number("a"), Number("a"))) or "")
