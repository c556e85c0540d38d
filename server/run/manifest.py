"""The manifest of a run, ``experiment.json``: experiment, engine, versions, times resumed."""

import importlib.metadata
import platform
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedkd.errors import DataError, SettingsError
from fedkd.experiment import Experiment

MANIFEST = "experiment.json"
PACKAGES = ("fedkd", "torch", "flwr", "grpcio", "numpy", "scikit-learn")
DECISIVE = ("fedkd", "torch")
"""Packages of which another release may train another student from the same replies."""


class Manifest(BaseModel):
    """``experiment.json``: all settings of a run."""

    model_config = ConfigDict(frozen=True)

    experiment: Experiment
    engine: str
    every: float = Field(ge=0)
    """Seconds between saved states; 0 saves none, and a resumed run replays the whole journal."""
    record: bool = False
    """Whether every reply is kept when the run is over."""
    resumed: int = Field(0, ge=0)
    without: tuple[str, ...] = ()
    """Names of institutions that the operator left out when the run was resumed."""
    versions: dict[str, str]

    @property
    def warning(self) -> str:
        """Why the student may differ from that of an uninterrupted run; empty if it will not."""
        now, then = versions(), self.versions
        changed = [f"{n} {then.get(n)}, now {now[n]}" for n in DECISIVE if then.get(n) != now[n]]
        if not changed:
            return ""
        return f"begun with {' and '.join(changed)}: the student may differ in its last digits"


def read_manifest(path: Path) -> Manifest:
    """The manifest in a run's folder.

    Raises:
        SettingsError: there is none.
        DataError: it is malformed, or of another release.
    """
    try:
        return Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except OSError as error:
        raise SettingsError(
            f"{path} holds no {MANIFEST}: no run was begun there that could be resumed"
        ) from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole"
        raise DataError(
            f"{path / MANIFEST} cannot be read ({where}: {error.errors()[0]['msg']}); resume it "
            "with the release of fedkd that began the run"
        ) from None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages on which a run depends."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
