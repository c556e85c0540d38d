"""Values of ``[questions]`` that are a word or numbers: how long to wait, and a class prior."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

ADAPTIVE: Literal["adaptive"] = "adaptive"
ALL: Literal["all"] = "all"


def _linger(value: object) -> object:
    """Checks the value; None is that of `ALL` in files of runs that an earlier release began."""
    seconds = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    if not (seconds or value in (None, ADAPTIVE, ALL)):
        raise ValueError(f'expected seconds, 0 or more, "{ADAPTIVE}" or "{ALL}"')
    return ALL if value is None else value


def _class_prior(value: object) -> object:
    """Checks the value; a list from TOML becomes a tuple."""
    if value in ("auto", "as_trained", "uniform"):
        return value
    shares = tuple(value) if isinstance(value, list | tuple) else ()
    if not shares or not all(type(share) in (int, float) for share in shares):
        raise ValueError('expected "auto", "as_trained", "uniform", or a share for each class')
    return shares


ClassPrior = Annotated[
    Literal["auto", "as_trained", "uniform"] | tuple[float, ...], BeforeValidator(_class_prior)
]
"""A word, or shares."""
Linger = Annotated[float | Literal["adaptive", "all"], BeforeValidator(_linger)]
"""Seconds, or a word."""
