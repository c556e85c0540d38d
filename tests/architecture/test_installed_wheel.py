"""A wheel of this tree, installed beside files of a user's own that have the names of our folders.

It is built offline and installed without its dependencies: those are here. Everything runs in a
working directory that holds a server.py, a client.py and a simulations.py, which end whoever
imports them.
"""

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from importlib.metadata import PathDistribution, packages_distributions
from pathlib import Path

import pytest

from tests.support.wheel import ROOT, wheel, wheel_of_sdist

FOLDERS = ("server", "client", "simulations")
COMMANDS = ("fedkd", "fedkd-client", "fedkd-server")
MODULES = {name: f"fedkd.{name.removeprefix('fedkd-')}.cli" for name in COMMANDS[1:]}
CHECKOUT_ONLY = tuple(
    f"fedkd/simulations/{name}/" for name in ("baselines", "benchmarks", "checks", "faults")
)
"""What only those who build fedkd run."""
SMALL = {
    "institutions": {"count": 2, "epochs": 1},
    "questions": {"budget": 128},
    "student": {"steps": 10},
}
"""An experiment of seconds."""


@dataclass(frozen=True)
class Installed:
    """A wheel, where it is installed, and where its user works."""

    wheel: Path
    site: Path
    work: Path

    def run(self, *command: str, timeout: float = 100) -> str:
        """What a command writes to standard output, once it has ended well."""
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
        done = subprocess.run(
            command,
            cwd=self.work,
            env={**inherited, "PYTHONPATH": str(self.site), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, code: str, timeout: float = 100) -> str:
        """What a file of the user's own writes, run as he would."""
        (self.work / "own.py").write_text(code)
        return self.run(sys.executable, "own.py", timeout=timeout)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    built, site, work = wheel(folder), folder / "site", folder / "work"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    offline = ("--no-index", "--no-deps", "--no-compile", "--target", str(site), str(built))
    subprocess.run([*pip, *offline], check=True)
    work.mkdir()
    for name in FOLDERS:
        (work / f"{name}.py").write_text(f"raise SystemExit('the user has a {name}.py')\n")
    return Installed(built, site, work)


def test_the_wheel_holds_one_name_and_all_of_it(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as built:
        held = {name for name in built.namelist() if ".dist-info/" not in name}
    tree = installed.wheel.parents[1] / "tree"
    ours = {"fedkd/py.typed", "fedkd/simulations/flower-app/LICENSE"}
    for top in ("fedkd", *FOLDERS):
        folder = tree / top
        base = folder if top == "fedkd" else tree
        files = [*folder.rglob("*.py"), *folder.rglob("*.toml"), *folder.rglob("*.pyi")]
        ours |= {f"fedkd/{path.relative_to(base)}" for path in files}
    assert held == {name for name in ours if not name.startswith(CHECKOUT_ONLY)}


def test_the_source_distribution_builds_the_same_wheel(
    installed: Installed, tmp_path: Path
) -> None:
    again = wheel_of_sdist(installed.wheel.parents[1] / "tree", tmp_path / "again")
    with zipfile.ZipFile(installed.wheel) as one, zipfile.ZipFile(again) as other:
        assert set(one.namelist()) == set(other.namelist())


def imported(path: Path) -> set[str]:
    """Packages that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names):
                found |= {name.name.split(".")[0] for name in names}
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module.split(".")[0])
    return found


def test_what_is_imported_is_declared(installed: Installed) -> None:
    (info,) = installed.site.glob("*.dist-info")
    required = PathDistribution(info).requires or []
    declared = {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in required}
    known = packages_distributions()
    missing = {
        (package, str(path.relative_to(installed.site)))
        for path in installed.site.joinpath("fedkd").rglob("*.py")
        for package in imported(path) - sys.stdlib_module_names - {"fedkd"}
        if not {d.lower().replace("_", "-") for d in known.get(package, [package])} & declared
    }
    # Ray is what flwr[simulation] brings, in the version that it takes; MLServer has a Python of
    # its own, in which nothing else of ours is.
    assert {package for package, _ in missing} <= {"ray", "mlserver"}, missing


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_starts_beside_files_of_the_users_own(installed: Installed, name: str) -> None:
    assert "Usage: " in installed.run(str(installed.site / "bin" / name), "--help")
    module = MODULES.get(name, "fedkd.simulations.cli")
    assert "Usage: " in installed.run(sys.executable, "-m", module, "--help")


def test_every_import_and_a_process_of_its_own_find_what_is_installed(installed: Installed) -> None:
    said = installed.python(
        """
import inspect, multiprocessing, pickle
import fedkd, fedkd.client.client_app, fedkd.server.server_app, fedkd.simulations.run
from fedkd.client.institution import Institution
from fedkd.server.flower_strategy import DataFreeDistillation

if __name__ == "__main__":
    print(fedkd.__file__)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for kind in (fedkd.Plan, Institution, DataFreeDistillation):
            assert pickle.loads(pickle.dumps(kind)) is kind
            print(pool.apply(inspect.getfile, (kind,)))
    try:
        import server
    except SystemExit as mine:
        print(mine)
"""
    )
    *files, mine = said.splitlines()
    assert mine == "the user has a server.py", "his file stays his"
    assert len(files) == 4
    assert all(Path(file).is_relative_to(installed.site / "fedkd") for file in files)


def test_a_run_beside_files_of_the_users_own(installed: Installed) -> None:
    changes = [
        f"--set={section}.{key}={value}"
        for section, values in SMALL.items()
        for key, value in values.items()
    ]
    command = str(installed.site / "bin" / "fedkd")
    installed.run(command, "run", "digits", "--out", "local", *changes)
    result = json.loads((installed.work / "local" / "result.json").read_text())
    assert (result["engine"], len(result["teachers"])) == ("local", 2)
    assert (installed.work / "local" / "report.html").is_file()


@pytest.mark.skipif(" " in sys.executable, reason="Ray cannot, and flwr_run says so")
def test_flowers_own_command_runs_what_is_installed(installed: Installed) -> None:
    """The SuperLink is started where the user's files are, as it is by hand."""
    (installed.work / "tiny.toml").write_text(
        "\n".join(
            f"[{section}]\n" + "\n".join(f"{key} = {value}" for key, value in values.items())
            for section, values in SMALL.items()
        )
    )
    installed.python(
        """
import sys
from functools import partial
from pathlib import Path
from fedkd.simulations.rehearsal import flwr_run

class Here(flwr_run.FlowerInstallation):
    def __init__(self, home, empty, ports):
        super().__init__(home, Path.cwd(), ports)

flwr_run.FlowerInstallation = Here
sys.exit(flwr_run.main(["tiny.toml", "--out", "flower", "--seed", "3"]))
""",
        timeout=250,
    )
    result = json.loads((installed.work / "flower" / "result.json").read_text())
    assert (result["engine"], result["seed"], len(result["teachers"])) == ("flower", 3, 2)
    assert result["student"]["accuracy"] is not None


USER = """
import torch
from torch import nn

import fedkd
from fedkd import FitResult, Policy, SavedStudent


def train(teachers: dict[str, nn.Module]) -> FitResult:
    return fedkd.fit("cnn", teachers, shape=(1, 28, 28), budget=1000)


result = train({})
classes: tuple[str, ...] = result.classes
student: SavedStudent = fedkd.load(result.save("student.safetensors"))
labels: list[str] = student.predict(torch.zeros(1, 1, 28, 28))
version: str = fedkd.__version__
asked = Policy(samples=1)
ended: str = fedkd.serve(result.student, "127.0.0.1:1", name="a", token="b", policy=asked)
app = fedkd.flower.student_app("cnn")
fedkd.fit("cnn", budget="many")
reveal_type(app)
"""


def test_mypy_reads_the_types_of_what_is_installed(installed: Installed, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (packages / "here.pth").write_text(f"{installed.site}\n{sysconfig.get_path('purelib')}\n")
    (tmp_path / "user.py").write_text(USER)
    # Torch's own types take half of the time, and are not what is installed here.
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-torch.*]\nfollow_imports = skip\n")
    python = str(tmp_path / "env" / "bin" / "python")
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "user.py")
    done = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True, check=False)
    told = [line.partition(": ")[2] for line in done.stdout.splitlines()[:-1]]
    assert told == [
        'error: Argument "budget" to "fit" has incompatible type "str"; expected "int | None"  '
        "[arg-type]",
        'note: Revealed type is "flwr.serverapp.server_app.ServerApp"',
    ], done.stdout + done.stderr


def test_names_are_listed_and_cost_nothing_until_they_are_used(installed: Installed) -> None:
    code = (
        "import sys, fedkd\n"
        "assert not {'torch', 'grpc', 'flwr', 'pydantic', 'numpy'} & set(sys.modules)\n"
        "assert dir(fedkd) == sorted(fedkd.__all__)\n"
        "print(fedkd.__version__, [name for name in fedkd.__all__ if not hasattr(fedkd, name)])"
    )
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert installed.python(code) == f"{ours} []\n"
