"""Settings in TOML, held to a model that knows every key. Knows no particular file.

Unknown keys are errors that name the nearest known one. What is wrong is told in one line.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from fedkd.errors import SettingsError


class Section(BaseModel):
    """A table of settings: no key but its own, no number that is none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _located(path: Path, info: ValidationInfo) -> Path:
    folder: Path = (info.context or {}).get("folder", Path())
    return folder / path.expanduser()


ResolvedPath = Annotated[Path, AfterValidator(_located)]
"""A path; where it is relative, relative to the folder that `validate_settings` was given."""

_Settings = TypeVar("_Settings", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        SettingsError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(
            f"cannot read {path.name}: {error.strerror}; give the path of a readable file"
        ) from error
    except ValueError as error:
        raise SettingsError(f"cannot read {path.name}: {error}; correct the file") from error


def validate_settings(
    model: type[_Settings], values: Mapping[str, Any], folder: Path | None = None, within: str = ""
) -> _Settings:
    """Settings from nested tables.

    Args:
        model: knows every key, its type and its range.
        values: as TOML gives them.
        folder: to which a `ResolvedPath` path is relative; None for the current one.
        within: the table that they stand in; "" for the whole file.

    Raises:
        SettingsError: naming the first thing that is wrong and the nearest right key.
    """
    try:
        return model.model_validate(dict(values), context={"folder": folder or Path()})
    except ValidationError as error:
        # A misspelt key is told rather than the key that is missing for it.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        where = ".".join(str(part) for part in ([within] if within else []) + list(first["loc"]))
        if first["type"] == "extra_forbidden":
            known = _keys(model, first["loc"][:-1])
            raise SettingsError(
                f"unknown key {where}{did_you_mean(str(first['loc'][-1]), known)}; "
                f"known here: {', '.join(known)}"
            ) from None
        if first["type"] == "missing":
            raise SettingsError(f"{where} is missing; say what it is") from None
        raise SettingsError(
            f"{where} = {first['input']!r}: {first['msg'].lower()}; correct it"
        ) from None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` where something known is near ``word``, else nothing."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Keys that the table at ``location`` knows."""
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        choices = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
        tables = [t for t in (annotation, *choices) if isinstance(t, type)]
        inner = next((t for t in tables if issubclass(t, BaseModel)), None)
        if inner is None:
            break
        model = inner
    return sorted(model.model_fields)
