"""Methods: one paper, one file, one factory. Knows names, not how a run is driven."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fedkd.errors import SettingsError
from fedkd.methods.cudfkd import cudfkd
from fedkd.methods.method import Method

METHODS: dict[str, Callable[..., Method]] = {
    "cudfkd": cudfkd,
}
"""Every method by the name that users type."""


def make(name: str, arguments: Mapping[str, Any]) -> Method:
    """The method of that name with these arguments.

    Raises:
        SettingsError: no such method, or an argument that it does not take.
    """
    if name not in METHODS:
        raise SettingsError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}")
    known = list(inspect.signature(METHODS[name]).parameters)
    for argument in arguments:
        if argument not in known:
            close = difflib.get_close_matches(argument, known, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise SettingsError(
                f"{name} takes no argument {argument}{hint}; known: {', '.join(known)}"
            )
    try:
        return METHODS[name](**arguments)
    except TypeError as error:
        raise SettingsError(f"{name} cannot be made of {dict(arguments)}: {error}") from error


__all__ = ["METHODS", "Method", "cudfkd", "make"]
