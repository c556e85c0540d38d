"""Methods: one paper, one file, one factory. Knows names, not how a run is driven."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

from fedkd.errors import SettingsError
from fedkd.methods.cmi import cmi
from fedkd.methods.co_boosting import co_boosting
from fedkd.methods.cudfkd import cudfkd
from fedkd.methods.dafl import dafl
from fedkd.methods.ddad import ddad
from fedkd.methods.deepinversion import deepinversion
from fedkd.methods.dense import dense
from fedkd.methods.dfad import dfad
from fedkd.methods.dfme import dfme
from fedkd.methods.dfq import dfq
from fedkd.methods.dip_kd import dip_kd
from fedkd.methods.disguide import disguide
from fedkd.methods.fast_dfkd import fast_dfkd
from fedkd.methods.hidfd import hidfd
from fedkd.methods.ideal import ideal
from fedkd.methods.method import Method
from fedkd.methods.pre_dfkd import pre_dfkd
from fedkd.methods.rdskd import rdskd
from fedkd.methods.ta_dfkd import ta_dfkd
from fedkd.methods.zskd import zskd
from fedkd.methods.zskt import zskt

METHODS: dict[str, Callable[..., Method]] = {
    "cudfkd": cudfkd,
    "dafl": dafl,
    "zskt": zskt,
    "dfad": dfad,
    "dfme": dfme,
    "ta_dfkd": ta_dfkd,
    "rdskd": rdskd,
    "dip_kd": dip_kd,
    "deepinversion": deepinversion,
    "dfq": dfq,
    "ddad": ddad,
    "ideal": ideal,
    "disguide": disguide,
    "pre_dfkd": pre_dfkd,
    "fast_dfkd": fast_dfkd,
    "cmi": cmi,
    "hidfd": hidfd,
    "dense": dense,
    "co_boosting": co_boosting,
    "zskd": zskd,
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


def ways(name: str) -> tuple[str, ...]:
    """The gradients by which that method's generator can learn, its default first.

    Its factory's signature names them; where it takes no ``gradient``, there is one.
    """
    hints = get_type_hints(METHODS[name])
    return get_args(hints["gradient"]) if "gradient" in hints else (METHODS[name]().gradient.name,)


__all__ = [
    "METHODS",
    "Method",
    "cudfkd",
    "dafl",
    "ddad",
    "deepinversion",
    "dfad",
    "dfme",
    "make",
    "rdskd",
    "ta_dfkd",
    "ways",
    "zskt",
]
