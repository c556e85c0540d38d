"""Teacher format ``skops:FILE``: a fitted scikit-learn estimator saved with skops, no pickle.

skops builds only types that it knows, and those that the owner lists in ``trusted_types``. What an
estimator computes may take any memory and time.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from fedkd.client.vault.regular_files import read_regular_file
from fedkd.client.vault.teachers.adapters.logits_only_teacher import LogitsTeacher
from fedkd.client.vault.teachers.adapters.sklearn_estimator import estimator_teacher
from fedkd.client.vault.teachers.adapters.table_estimator import table_estimator_teacher
from fedkd.client.vault.teachers.adapters.table_layout import TableLayout
from fedkd.client.vault.teachers.file_checks.memory_limit import memory_limit
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, FedkdError, SettingsError
from fedkd.models import TableTeacher

MAX_EXPANSION = 100
"""Unpacked bytes for each byte of a file; a bomb has a thousand."""
MIN_LIMIT_BYTES = 1 << 24
"""So much may always be unpacked."""
MAX_VISITS = 10_000_000
"""Steps in which skops goes through a file, where objects stand in several others."""
SCHEMA = "schema.json"


def open_skops(spec: TeacherSpec, name: str) -> LogitsTeacher:
    """See the module.

    Raises:
        SettingsError: skops is not installed, or the file needs types that are not trusted.
        DataError: it cannot be read, or is no fitted classifier.
    """
    return estimator_teacher(_load(spec, name), spec)


def open_skops_table(spec: TeacherSpec, name: str, layout: TableLayout) -> TableTeacher:
    """A classifier or regressor that reads rows.

    Raises:
        SettingsError: see `open_skops`, or pandas is needed and not installed.
        DataError: it cannot be read, or does not fit the schema.
    """
    return table_estimator_teacher(_load(spec, name), layout, spec.source)


def _load(spec: TeacherSpec, name: str) -> Any:
    """The estimator in a file."""
    try:
        from skops.io import get_untrusted_types, loads
    except ImportError as error:
        raise SettingsError("skops is not installed; install fedkd[skops]") from error

    path = spec.path(name)
    content = read_regular_file(path, memory_limit(spec))
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise DataError(f"{path} is no skops file; save the estimator with skops.io.dump")
    try:
        _check_sizes(content, path)
        unknown = sorted(set(get_untrusted_types(data=content)) - set(spec.trusted_types))
        if unknown:
            raise SettingsError(
                f"{path} builds {', '.join(unknown)}; if these are your own, list them in "
                f"trusted_types"
            )
        return loads(content, trusted=list(spec.trusted_types))
    except FedkdError:
        raise
    except Exception as error:  # a damaged file fails wherever skops happens to be
        raise DataError(
            f"{path} cannot be read by skops ({type(error).__name__}); save it again with the "
            f"versions that are installed here"
        ) from error


def _check_sizes(content: bytes, path: Path) -> None:
    """Refuse a file that grows, be it unpacked or by arrays that it reads again and again."""
    limit = max(MIN_LIMIT_BYTES, MAX_EXPANSION * len(content))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
        unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > limit:
            raise DataError(f"{path} would unpack to {unpacked} bytes; save it uncompressed")
        read, visits = _cost(json.loads(archive.read(SCHEMA)), sizes, {})
    if read > limit or visits > MAX_VISITS:
        raise DataError(
            f"{path} would read {read} bytes in {visits} steps; save the estimator again with "
            f"skops.io.dump"
        )


def _cost(value: Any, sizes: dict[str, int], known: dict[Any, int]) -> tuple[int, int]:
    """Bytes and steps to build a value of the schema: arrays are read once for each mention.

    Args:
        value: a part of the schema.
        sizes: bytes of each member of the archive.
        known: steps of the objects so far, by their id; skops builds each once, but visits it from
            all that contain it.
    """
    if isinstance(value, list):
        parts = [_cost(each, sizes, known) for each in value]
    elif isinstance(value, dict):
        own = value.get("__id__")
        if own is not None and own in known:
            return 0, known[own]
        known[own] = 0  # an object inside itself is not visited again
        parts = [_cost(each, sizes, known) for each in value.values()]
        read, visits = sum(p[0] for p in parts), 1 + sum(p[1] for p in parts)
        known[own] = visits
        name = value.get("file")
        return read + (sizes.get(name, 0) if isinstance(name, str) else 0), visits
    else:
        return 0, 0
    return sum(part[0] for part in parts), sum(part[1] for part in parts)
