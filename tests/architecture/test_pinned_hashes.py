"""The lists of hashes have the pins of constraints.txt, all of them, and no others."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})(?= |$)")
IMAGE = {
    "python_version": "3.12",
    "python_full_version": "3.12.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}
"""Of the images in containers/."""
EXTRAS = {"client": {"data", "metrics"}, "server": {"onnx", "metrics"}}


def pins(name: str) -> dict[str, tuple[str, Marker | None, list[str]]]:
    """Version, marker and hashes of each package in a list."""
    found: dict[str, tuple[str, Marker | None, list[str]]] = {}
    text = (ROOT / name).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            told = Requirement(line.partition(" --hash")[0])
            (pin,) = told.specifier
            assert pin.operator == "==", line[:80]
            package = canonicalize_name(told.name)
            assert package not in found, f"{package} stands twice in {name}"
            found[package] = (pin.version, told.marker, HASH.findall(line))
            assert len(found[package][2]) == line.count("--hash"), line[:80]
    return found


def versions(name: str) -> dict[str, str]:
    return {package: version for package, (version, _, _) in pins(name).items()}


def test_every_pin_has_hashes_and_nothing_else_has() -> None:
    assert versions("constraints-hashes.txt") == versions("constraints.txt")
    hashed = pins("constraints-hashes.txt")
    assert [package for package, (_, _, hashes) in hashed.items() if not hashes] == []
    assert all(marker is None for _, marker, _ in hashed.values())


@pytest.mark.parametrize("side", EXTRAS)
def test_an_image_installs_these_pins_with_these_hashes(side: str) -> None:
    known, installed = pins("constraints-hashes.txt"), pins(f"containers/{side}-requirements.txt")
    here = {
        package: (version, hashes)
        for package, (version, marker, hashes) in installed.items()
        if marker is None or marker.evaluate(IMAGE)
    }
    unpinned = {"setuptools"} - here.keys()
    assert unpinned == set(), "what builds our package has to be there, with a hash"
    assert here == {package: (known[package][0], known[package][2]) for package in here}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    wanted += [each for name in EXTRAS[side] for each in project["optional-dependencies"][name]]
    for requirement in map(Requirement, wanted):
        version, _ = here[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement
