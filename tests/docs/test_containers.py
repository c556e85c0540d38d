"""What can be said of the images without building them."""

import re
import shlex
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.wheel import wheel

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "containers"
FILES = sorted(FOLDER.glob("*.Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Words and arguments of a Dockerfile, continued lines put together."""
    text = re.sub(r"\\\n", " ", path.read_text())
    lines = [line.strip() for line in text.splitlines()]
    return [tuple(line.split(" ", 1)) for line in lines if line and line[0] != "#"]  # type: ignore[misc]


def sources(path: Path) -> list[str]:
    """What a Dockerfile copies out of the repository."""
    return [
        source
        for word, rest in instructions(path)
        if word == "COPY" and not rest.startswith("--from")
        for source in shlex.split(rest)[:-1]
    ]


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_image_copies_what_is_there_runs_our_command_and_not_as_root(path: Path) -> None:
    told = instructions(path)
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    copied = sources(path)
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in sent, f"{source} is not sent to the builder"
    other = {"server": "client", "client": "server"}[path.stem]
    assert path.stem in copied
    assert other not in copied, "the other side's code has no place in this image"
    user = [rest for word, rest in told if word == "USER"][-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "numbers, so that a cluster can check them"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    entry = yaml.safe_load(next(rest for word, rest in told if word == "ENTRYPOINT"))
    assert scripts[entry[0]] == f"fedkd.{path.stem}.cli:main"
    bases = [rest.split()[0] for word, rest in told if word == "FROM"]
    assert all(re.fullmatch(r"python:[\d.]+-slim@\$\{PYTHON_DIGEST\}", base) for base in bases)
    assert ("ARG", "PYTHON_DIGEST") in told, "without a default, so that no build goes without it"
    installs = [rest for word, rest in told if word == "RUN" and "pip install" in rest]
    downloads = [rest for rest in installs if "--no-index" not in rest]
    assert downloads == [
        f"pip install --no-cache-dir --no-deps --require-hashes -r {path.stem}-requirements.txt"
    ]
    assert all("--no-deps" in rest for rest in installs)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_an_image_installs_is_its_own_side_alone(path: Path, tmp_path: Path) -> None:
    """COPY keeps links as they are: fedkd's to the other side leads nowhere, and is left out."""
    copied = [source for source in sources(path) if "/" not in source]
    with zipfile.ZipFile(wheel(tmp_path, copied)) as built:
        rooms = {tuple(name.split("/")[:2]) for name in built.namelist()}
    sides = {room for top, room in rooms if top == "fedkd"} & {"server", "client", "simulations"}
    assert sides == {path.stem}
    assert {top for top, _ in rooms if not top.endswith(".dist-info")} == {"fedkd"}


def test_every_service_is_confined_and_an_institution_listens_on_nothing(
    compose: dict[str, Any],
) -> None:
    services = compose["services"]
    assert services.keys() == {"coordinator", "north"}
    for service in services.values():
        confined = {**service.pop("<<", {}), **service}
        assert confined["read_only"] is True
        assert confined["cap_drop"] == ["ALL"]
        assert confined["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in confined
        assert (ROOT / confined["build"]["dockerfile"]).is_file()
        mounted = [volume.split(":")[0] for volume in confined["volumes"]]
        named = [source for source in mounted if not source.startswith(".")]
        assert set(named) <= compose["volumes"].keys()
    assert "ports" not in services["north"]
    assert "expose" not in services["north"]
    assert services["coordinator"]["ports"] == ["9092:9092"]


def test_images_have_the_version_of_the_package(compose: dict[str, Any]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    page = (ROOT / "docs" / "deployment.md").read_text()
    built = re.findall(r"docker build \S+ \S+ -t (\S+)", page)
    assert sorted(built) == [f"fedkd-{side}:{version}" for side in ("client", "server")]
    assert sorted(service["image"] for service in compose["services"].values()) == sorted(built)


def test_the_commands_of_the_services_are_there(compose: dict[str, Any]) -> None:
    import click
    import typer.main

    from fedkd.client.cli import app as client
    from fedkd.server.cli import app as server

    for name, app in (("coordinator", server), ("north", client)):
        words = compose["services"][name]["command"]
        group = typer.main.get_command(app)
        assert isinstance(group, click.Group)
        command = group.commands[words[0]]
        command.make_parser(click.Context(command)).parse_args(words[1:])
