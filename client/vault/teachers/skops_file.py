"""Teacher format ``skops:FILE``: a fitted scikit-learn classifier saved with skops, no pickle.

skops builds only types that it knows, and those that the owner lists in ``trusted_types``.
"""

import zipfile

from fedkd.client.vault.teachers.logits_only_teacher import LogitsTeacher
from fedkd.client.vault.teachers.sklearn_estimator import estimator_teacher
from fedkd.client.vault.teachers.teacher_spec import TeacherSpec
from fedkd.errors import DataError, FedkdError, SettingsError

MAX_EXPANSION = 100
"""Unpacked bytes for each byte of a file; a bomb has a thousand."""
MIN_LIMIT_BYTES = 1 << 26
"""So much may always be unpacked."""


def open_skops(spec: TeacherSpec, name: str) -> LogitsTeacher:
    """See the module.

    Raises:
        SettingsError: skops is not installed, or the file needs types that are not trusted.
        DataError: it cannot be read, or is no fitted classifier.
    """
    try:
        from skops.io import get_untrusted_types, load
    except ImportError as error:
        raise SettingsError("skops is not installed; install fedkd[skops]") from error

    path = spec.path(name)
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is no skops file; save the estimator with skops.io.dump")
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > max(MIN_LIMIT_BYTES, MAX_EXPANSION * path.stat().st_size):
            raise DataError(f"{path} would unpack to {unpacked} bytes; save it uncompressed")
        unknown = sorted(set(get_untrusted_types(file=path)) - set(spec.trusted_types))
        if unknown:
            raise SettingsError(
                f"{path} builds {', '.join(unknown)}; if these are your own, list them in "
                f"trusted_types"
            )
        estimator = load(path, trusted=list(spec.trusted_types))
    except FedkdError:
        raise
    except Exception as error:  # a damaged file fails wherever skops happens to be
        raise DataError(
            f"{path} cannot be read by skops ({type(error).__name__}); save it again with the "
            f"versions that are installed here"
        ) from error
    return estimator_teacher(estimator, spec)
