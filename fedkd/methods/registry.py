"""Registry of methods: ours by name, others by entry point or as package.module:factory."""

import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fedkd.core.plugins import called, find_factory, known_names
from fedkd.errors import SettingsError
from fedkd.methods.method import Method
from fedkd.methods.source_shares import gradients_of

GROUP = "fedkd.methods"
"""The entry-point group in which packages offer factories of methods."""
METHODS: dict[str, Callable[..., Method]] = {}
"""Our own factories by the name that users type; `fedkd.methods` fills it from one table."""
RENAMED: Mapping[str, tuple[str, ...]] = {
    "imitation": ("distillation_loss",),
    "epoch": ("steps_per_batch", "capture_interval"),
    "pace_start": ("lambda_start",),
    "pace_stop": ("lambda_stop",),
    "hardness": ("difficulty_power",),
    "common": ("meta_update",),
    "idle": ("student_from",),
    "remembered": ("bank_size",),
    "memory_steps": ("replay_steps",),
    "memory_rate": ("replay_rate",),
    "memory_latent_rate": ("replay_latent_rate",),
    "side_weight": ("classwise_weight",),
    "inflation": ("public_repeats",),
    "critic_rate": ("discriminator_rate",),
}
"""Old name of an argument -> its new ones, of which a factory has one; read until 0.3."""


def known_methods() -> tuple[str, ...]:
    """Names of all methods: ours, then those of installed packages."""
    return known_names(GROUP, METHODS)


def factory_of(name: str) -> Callable[..., Method]:
    """The factory of a method.

    Args:
        name: of ours, of an entry point in the group ``fedkd.methods``, or
            ``package.module:factory``.

    Raises:
        SettingsError: there is none.
    """
    return find_factory("method", GROUP, name, METHODS)


def make(name: str, arguments: Mapping[str, Any]) -> Method:
    """The method of that name with these arguments.

    Raises:
        SettingsError: no such method, or an argument that it does not take.
    """
    factory = factory_of(name)
    parameters = inspect.signature(factory).parameters
    arguments = _renamed(name, arguments, parameters)
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        _expect_known(name, arguments, list(parameters))
    method = called("method", name, partial(_build, name, factory, arguments))
    if not isinstance(method, Method):
        raise SettingsError(
            f"{name} made a {type(method).__name__}; expected a fedkd.methods.Method"
        )
    return method


def _build(name: str, factory: Callable[..., Method], arguments: Mapping[str, Any]) -> Method:
    try:
        return factory(**arguments)
    except TypeError as error:
        raise SettingsError(f"{name} cannot be made of {dict(arguments)}: {error}") from error


def ways(name: str) -> tuple[str, ...]:
    """The gradients by which that method's generator can learn, its default first."""
    return gradients_of(factory_of(name))


def _renamed(
    name: str, arguments: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> dict[str, Any]:
    """Arguments by their new names, with a warning for each old one."""
    found: dict[str, Any] = {}
    for argument, value in arguments.items():
        new = next((n for n in RENAMED.get(argument, ()) if n in parameters), None)
        if new is None or argument in parameters:
            found[argument] = value
            continue
        if new in arguments:
            raise SettingsError(f"{name}: {argument} is the old name of {new}; give one of them")
        warnings.warn(
            f"method.{argument} is now method.{new}; the old name goes in 0.3",
            FutureWarning,
            stacklevel=3,
        )
        found[new] = value
    return found


def _expect_known(name: str, arguments: Mapping[str, Any], known: list[str]) -> None:
    for argument in arguments:
        if argument not in known:
            close = difflib.get_close_matches(argument, known, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise SettingsError(
                f"{name} takes no argument {argument}{hint}; known: {', '.join(known)}"
            )
