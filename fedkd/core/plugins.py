"""Plug-ins: factories of methods, priors and models, by entry point or as module:factory."""

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeAlias

from fedkd.errors import FedkdError, SettingsError

Factory: TypeAlias = Callable[..., Any]


def entry_point_names(group: str) -> tuple[str, ...]:
    """Names under which installed packages offer something in an entry-point group, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=group)}))


def find_factory(
    what: str, group: str, name: str, own: Mapping[str, Factory], imports: bool = True
) -> Factory:
    """The factory of that name: ours, then ``package.module:function``, then an entry point.

    Args:
        what: is wanted, for the message.
        group: of entry points.
        name: of the factory.
        own: ours, by name.
        imports: whether a module may be imported; never for a name that came over the wire.

    Raises:
        SettingsError: there is none of that name.
    """
    if name in own:
        return own[name]
    if imports and ":" in name:
        return import_factory(what, name)
    if (offered := entry_point_factory(group, name)) is not None:
        return offered
    known = known_names(group, own)
    close = difflib.get_close_matches(name, known, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise SettingsError(
        f"unknown {what} {name!r}{hint}; choose one of {', '.join(known)}, or name a factory of "
        "yours as package.module:factory"
    )


def known_names(group: str, own: Mapping[str, Factory]) -> tuple[str, ...]:
    """All names: ours, then those of installed packages."""
    return (*own, *(name for name in entry_point_names(group) if name not in own))


def entry_point_factory(group: str, name: str) -> Factory | None:
    """What an installed package offers under that name; None: none does.

    Raises:
        SettingsError: two packages offer it, or it cannot be imported.
    """
    points = {point.value: point for point in entry_points(group=group, name=name)}
    if len(points) > 1:
        raise SettingsError(
            f"{name!r} is offered by {' and '.join(sorted(points))} in {group}; uninstall one"
        )
    return _loaded(next(iter(points.values()))) if points else None


def import_factory(what: str, name: str) -> Factory:
    """The function that ``package.module:function`` names; the working directory is looked in.

    Only for names from the user's own settings: it runs what it finds.

    Args:
        what: is wanted, for the message.
        name: of the function.

    Raises:
        SettingsError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:  # a command's path begins with the folder of its own script
        sys.path.append(folder)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"{what} {name!r} cannot be loaded: {error}; expected package.module:function, "
            "installed or in the working directory"
        ) from error
    except Exception as error:  # the module runs as it is imported, and may raise anything
        raise SettingsError(f"{what} {name!r} {_failure(error)}; correct the module") from error
    return _callable(what, name, found)


def called(what: str, name: str, factory: Factory, *arguments: Any) -> Any:
    """What a factory makes; only one of the user's own may fail in any way.

    Args:
        what: is wanted, for the message.
        name: of the factory.
        factory: is called.
        arguments: for it.

    Raises:
        FedkdError: ours raised it.
        SettingsError: it raised anything else; where in its source stands in the message.
    """
    try:
        return factory(*arguments)
    except FedkdError:
        raise
    except Exception as error:
        raise SettingsError(f"{what} {name!r} {_failure(error)}; correct it") from error


def _failure(error: Exception) -> str:
    """The kind, first line and place in the source of what somebody else's code raised."""
    first = next(iter(str(error).splitlines()), "")
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised {type(error).__name__}: {first} ({Path(last.filename).name}:{last.lineno})"


def _loaded(point: EntryPoint) -> Factory:
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise SettingsError(
            f"entry point {point.name} = {point.value} in {point.group} cannot be loaded: {error}"
        ) from error
    return _callable(point.group, point.name, found)


def _callable(what: str, name: str, found: Any) -> Factory:
    if not callable(found):
        raise SettingsError(f"{what} {name!r} is a {type(found).__name__}; expected a function")
    factory: Factory = found
    return factory
