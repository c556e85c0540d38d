"""Format outputs of teachers and student: a class with its probability, or numbers with units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkd.errors import DataError
from fedkd.protocol.tables import Number
from fedkd.server.report.formatting import value_in_unit
from fedkd.server.report.records.result_schema import Result

_SHOWN_NUMBERS = 3
"""Numbers of one answer that are written."""
_STEPS = 1000
"""Steps of a number's range that its digits tell apart."""


@dataclass(frozen=True)
class Axis:
    """One output as an axis of a plot: label = low + span x output."""

    label: str
    low: float = 0.0
    span: float = 1.0

    def of(self, values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Outputs in the unit of the axis."""
        return self.low + self.span * values.astype(np.float64)


def class_name(index: int, names: Sequence[str]) -> str:
    """Name of a class; ``class 3`` for one that is numbered."""
    name = names[index] if 0 <= index < len(names) else str(index)
    return f"class {name}" if name.isdecimal() else name


def recorded_numbers(task: Mapping[str, Any]) -> tuple[Number, ...]:
    """The numbers that are predicted, from the task in a result.

    Raises:
        DataError: they are malformed.
    """
    try:
        numbers = tuple(
            Number(str(each["name"]), str(each["unit"]), float(each["low"]), float(each["high"]))
            for each in task["numbers"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the result's numbers are malformed: {error!r}") from None
    if not numbers or any(not number.high > number.low for number in numbers):
        raise DataError("the result's numbers are malformed: expected ranges from low to high")
    return numbers


def number_text(number: Number, value: float | None, unit: bool = True) -> str:
    """A value of a number, in its unit, with as many digits as its range needs."""
    text = value_in_unit(value, (number.high - number.low) / _STEPS)
    return f"{text} {number.unit}" if unit and number.unit and value is not None else text


def class_answer(result: Result, answer: NDArray[np.floating[Any]]) -> str:
    """``malignant 98%``, of probabilities (K,)."""
    index = int(answer.argmax())
    return f"{class_name(index, result.classes)} {answer[index]:.0%}"


def numbers_answer(result: Result, answer: NDArray[np.floating[Any]]) -> str:
    """``152.3 mg/dl``, of numbers (K,) in [0, 1]; with their names where there are several."""
    numbers = recorded_numbers(result.task)
    values = [n.low + (n.high - n.low) * float(v) for n, v in zip(numbers, answer, strict=False)]
    pairs = list(zip(numbers, values, strict=False))[:_SHOWN_NUMBERS]
    named = len(numbers) > 1
    texts = [(f"{n.name} " if named else "") + number_text(n, v) for n, v in pairs]
    more = len(numbers) - len(texts)
    return ", ".join(texts) + (f" and {more} more" if more else "")


def class_axis(result: Result, output: int) -> Axis:
    """Probability of a class."""
    return Axis(f"P({class_name(output, result.classes)})")


def number_axis(result: Result, output: int) -> Axis:
    """A number in its unit."""
    number = recorded_numbers(result.task)[output]
    label = f"{number.name}, {number.unit}" if number.unit else number.name
    return Axis(label, number.low, number.high - number.low)
