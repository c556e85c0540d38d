"""Format numbers, sizes, durations and privacy guarantees for people."""

import math
import time

from fedkd.server.report.records.result_schema import TeacherRecord

UNKNOWN = "not known"
_NUMERALS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def plural(number: int, noun: str) -> str:
    """``five teachers``, ``one teacher``, ``12 teachers``."""
    numeral = _NUMERALS[number] if number < len(_NUMERALS) else count(number)
    return f"{numeral} {noun}" if number == 1 else f"{numeral} {noun}s"


def percent(share: float | None) -> str:
    """``96.5%``; `UNKNOWN` for None."""
    return UNKNOWN if share is None else f"{share:.1%}"


def decimals(number: float | None) -> str:
    """``0.439``, of a score such as R²; `UNKNOWN` for None."""
    return UNKNOWN if number is None else f"{number:.3f}".replace("-", "\N{MINUS SIGN}")


def significant(number: float | None) -> str:
    """``487.3``, four digits of a number of any size; `UNKNOWN` for None."""
    return UNKNOWN if number is None else f"{number:.4g}".replace("-", "\N{MINUS SIGN}")


def value_in_unit(number: float | None, step: float) -> str:
    """``1,234.5``: a value with the digits that tell values ``step`` apart, ``step`` >= 0."""
    if number is None:
        return UNKNOWN
    if 1e-6 <= step < 1e15:
        text = f"{number:,.{max(0, -math.floor(math.log10(step)))}f}"
    else:  # digits that nobody would read; the step of a tiny range is 0 in floats
        text = f"{number:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def count(number: int) -> str:
    """``20,000``."""
    return f"{number:,}"


def size(number: float) -> str:
    """Bytes in decimal units: ``12.4 MB``."""
    units = ["TB", "GB", "MB", "kB", "B"]
    while number >= 999.5 and len(units) > 1:
        number /= 1000
        units.pop()
    unit = units[-1]
    digits = 0 if unit == "B" or number >= 99.95 else 1
    return f"{number:.{digits}f}\N{NO-BREAK SPACE}{unit}"


def duration(seconds: float) -> str:
    """``8.4 s``, ``1 min 12 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock_time(number: float) -> str:
    """Seconds since 1970 as ``20:14:03``, by the clock of this machine."""
    return time.strftime("%H:%M:%S", time.localtime(number))


def seconds(number: float) -> str:
    """A short time, to two digits: ``3.2 ms``, ``0.85 s``, ``12 s``."""
    if number < 0.0995:
        return f"{1000 * number:.2g}\N{NO-BREAK SPACE}ms"
    return f"{number:.2g}\N{NO-BREAK SPACE}s" if number < 99.5 else duration(number)


def guarantee(teacher: TeacherRecord) -> str:
    """The guarantee of an institution, in short."""
    if teacher.epsilon is None:
        return "none guaranteed"
    return epsilon_delta(teacher.epsilon, teacher.delta)


def epsilon_delta(epsilon: float, delta: float | None) -> str:
    """``ε = 4, δ = 1e-5``; both are bounds, so ε is rounded up to four digits."""
    return f"ε = {_rounded_up(epsilon)}" + ("" if delta is None else f", δ = {small(delta)}")


def _rounded_up(epsilon: float) -> str:
    """A bound > 0 to four digits; ∞ for one that floats cannot round."""
    if epsilon > 1e300:
        return "∞"
    epsilon = max(epsilon, 1e-300)  # a bound too; steps below are 0 in floats
    step = 10.0 ** (math.floor(math.log10(epsilon)) - 3)
    # First to the nearest in a millionth of a step: 8.001 is no whole number of steps in floats.
    return f"{math.ceil(round(epsilon / step, 6)) * step:.4g}"


def small(number: float) -> str:
    """``1e-5``."""
    return f"{number:.3g}".replace("e-0", "e-")
