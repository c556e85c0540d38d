"""What holds the repository together: who may import whom, what nobody imports, how long is long.

The contracts are in pyproject.toml and are checked on the text of the imports; what an
``importlib`` call could do behind their back is refused at run time, by a finder in a subprocess.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedkd.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("server", "client", "simulations")
"""Installed as fedkd.server and so on; a checkout has them at its root, and as links in fedkd/."""
PACKAGES = ("fedkd", *FOLDERS)
LINES = 350
"""A file of ours is no longer."""
BODY = 60
"""Nor is what a function does, its signature and docstring apart."""

LINT = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*packages: str) -> Iterator[tuple[str, str]]:
    """Every module of ours that nobody generated: its path and its text."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "_pb2" not in path.name:
                yield str(path.relative_to(ROOT)), path.read_text()


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, which finds our packages in this folder first."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages that may be spoilt, if it is put right again."""
    copy = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, symlinks=True, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def broken(tree: Path) -> set[str]:
    """Names of the contracts that a tree breaks."""
    said = run(LINT, tree).stdout
    contracts = tomllib.loads((tree / "pyproject.toml").read_text())["tool"]["importlinter"]
    names = {contract["name"] for contract in contracts["contracts"]}
    verdicts = {name: re.search(rf"{re.escape(name)}\s*(KEPT|BROKEN)", said) for name in names}
    assert all(verdicts.values()), f"the contracts were not all judged:\n{said}"
    return {name for name, verdict in verdicts.items() if verdict and verdict[1] == "BROKEN"}


def test_the_contracts_of_imports_are_kept() -> None:
    done = run(LINT, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


STRANGERS = "server and client meet only in simulations"
UPWARDS = "fedkd reads bottom to top"
CIRCLES = "inside a room nothing goes in circles"
WIRE = "the wire reads bottom to top"
SERVER = "the server reads bottom to top"
CLIENT = "the client reads bottom to top"
BRINGING = "brought teachers read bottom to top"
MATHEMATICS = "the mathematics knows no network, no framework and no data set"
DATA = "only the vault and simulations open or divide a data set"
VAULT = "only an institution opens its vault"
LOCAL = "only the vault opens its local data"
BROUGHT = "only the vault opens a brought teacher"
GATE = "only an institution has a release gate"
ALONE = "apps and agent reach private things through an institution alone"
FRIEND = "the server cannot open data, not even through a friend"
SPOILT = [
    ("server/coordinator.py", "from fedkd.client.vault import vault", {STRANGERS, VAULT, FRIEND}),
    ("client/agent.py", "def f():\n    import fedkd.server.hub.hub", {STRANGERS, UPWARDS}),
    ("fedkd/evaluation/metrics.py", "from fedkd.data import datasets", {DATA, MATHEMATICS}),
    ("fedkd/models/networks.py", "import fedkd.data.partition", {UPWARDS, FRIEND, ALONE}),
    ("fedkd/protocol/signals.py", "from fedkd import loop", {UPWARDS}),
    ("fedkd/core/logs.py", "import fedkd.simulations.cli", {UPWARDS}),
    ("fedkd/aggregation/fusion.py", "import torchvision.transforms", {MATHEMATICS, FRIEND}),
    ("fedkd/errors.py", "import grpc", {MATHEMATICS}),
    ("fedkd/errors.py", "import fedkd.protocol.signals", {UPWARDS}),
    ("fedkd/utils.py", "", {UPWARDS}),
    ("fedkd/protocol/signals.py", "import sklearn.metrics", {FRIEND, ALONE, MATHEMATICS}),
    ("fedkd/privacy/accounting.py", "import fedkd.privacy.budget", {CIRCLES}),
    ("fedkd/wire/tensors.py", "import fedkd.wire.recording", {WIRE, CIRCLES}),
    ("fedkd/wire/utils.py", "", {WIRE}),
    ("server/hub/hub.py", "import fedkd.server.strategy", {SERVER, CIRCLES}),
    ("server/utils.py", "", {SERVER}),
    ("client/ledger/hash_chain.py", "import fedkd.client.release.gate", {CLIENT, GATE, CIRCLES}),
    ("client/ledger/storage.py", "import fedkd.client.ledger.ledger", {CIRCLES}),
    ("client/utils.py", "", {CLIENT}),
    ("client/vault/teachers/spec.py", "import fedkd.client.vault.teachers.modules", {BRINGING}),
    ("client/app.py", "def f():\n    from fedkd.client.vault.vault import Vault", {VAULT, ALONE}),
    ("client/control/server.py", "from fedkd.client.vault.vault import Vault", {VAULT, ALONE}),
    ("client/control/client.py", "import fedkd.client.release.gate", {GATE, ALONE}),
    ("client/control/client.py", "import fedkd.client.release.modes", {GATE}),
    ("client/service/owner_config.py", "import fedkd.data.datasets", {DATA, ALONE}),
    ("client/service/daemon.py", "import fedkd.client.vault.training.dp_sgd", {ALONE}),
    ("client/institution.py", "import fedkd.client.vault.local_data", {LOCAL}),
    ("client/institution.py", "import fedkd.client.vault.teachers.opening", {BROUGHT}),
]
"""A file, a line that has no place in it, and contracts that say so."""


def test_every_contract_is_seen_to_break() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    names = {contract["name"] for contract in contracts["contracts"]}
    assert set().union(*(broken for _, _, broken in SPOILT)) == names


@pytest.mark.parametrize(("file", "line", "contracts"), SPOILT)
def test_a_forbidden_import_breaks_its_contract(
    tree: Path, file: str, line: str, contracts: set[str]
) -> None:
    spoilt = tree / file
    before = spoilt.read_text() if spoilt.exists() else None
    spoilt.write_text(f"{before or ''}\n{line}\n")
    try:
        assert contracts <= broken(tree)
    finally:
        if before is None:
            spoilt.unlink()
        else:
            spoilt.write_text(before)


WALL = """
import importlib, importlib.abc, pkgutil, sys

class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if any(name == shut or name.startswith(shut + ".") for shut in SHUT):
            raise ImportError(f"the wall stands before {name}")

sys.meta_path.insert(0, Wall())
for shut in SHUT:
    try:
        importlib.import_module(shut)
    except ImportError:
        continue
    raise SystemExit(f"the wall let {shut} through")

def everything(package):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
"""

SERVER_SIDE = """
import fedkd.server
everything(fedkd.server)

from fedkd.experiment.experiment import parse
from fedkd.models.in_process_teachers import InProcess
from fedkd.models.networks import build
from fedkd.server.coordinator import Coordinator, ingredients

shape = (1, 8, 8)
teachers = InProcess({f"t{i}": build("mlp", 10, shape, seed=i) for i in range(2)}, shape, 10)
experiment = parse(
    {
        "name": "tiny",
        "institutions": {"count": 2},
        "questions": {"budget": 64, "batch": 32},
        "student": {"model": "mlp", "steps": 6, "batch": 16},
    }
)
parts = ingredients(experiment, teachers.cards)
coordinator = Coordinator(parts, teachers.cards, lambda asked: (teachers.answer(asked), {}))
print("steps:", coordinator.finish().student_steps)
"""

CLIENT_SIDE = """
import fedkd.client
everything(fedkd.client)

import torch
from fedkd.client.institution import simulated
from fedkd.experiment.experiment import parse
from fedkd.protocol.signals import Ask, Signal

experiment = parse(
    {"name": "tiny", "institutions": {"count": 2, "models": ["mlp"], "epochs": 1}}
)
institution = simulated(experiment, 0, None)
images = torch.zeros(3, *institution.card.shape, dtype=torch.uint8)
reply = institution.answer(Ask(images, frozenset({Signal.LOGITS})))
print("logits:", len(reply.signals[Signal.LOGITS]))
"""


def behind_a_wall(code: str, *shut: str) -> str:
    done = run(f"SHUT = {shut!r}\n{WALL}\n{code}", ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_coordinator_conducts_a_run_where_client_and_data_cannot_be_imported() -> None:
    said = behind_a_wall(SERVER_SIDE, "fedkd.client", "fedkd.simulations", "fedkd.data", *FOLDERS)
    assert "steps: 6" in said


def test_an_institution_answers_where_the_server_cannot_be_imported() -> None:
    said = behind_a_wall(CLIENT_SIDE, "fedkd.server", "fedkd.simulations", *FOLDERS)
    assert "logits: 3" in said


def test_the_wall_refuses_what_the_contracts_cannot_see() -> None:
    with pytest.raises(AssertionError, match=r"wall stands before fedkd\.client"):
        behind_a_wall("importlib.import_module('fedkd.client.' + 'vault')", "fedkd.client")


def copies(text: str) -> list[str]:
    """What a module imports by the name of a folder: it would be there twice, and in no wheel."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names):
                found += [n.name for n in names]
            case ast.ImportFrom(module=str(module), level=0):
                found.append(module)
    return [name for name in found if name.split(".")[0] in FOLDERS]


def test_nobody_imports_by_the_name_of_a_folder() -> None:
    assert copies("import client.agent, fedkd.client") == ["client.agent"]
    assert copies("def f():\n    from server import hub") == ["server"]
    assert copies("from fedkd.server import hub\nfrom . import client") == []
    assert {p: at for p, text in sources(*PACKAGES, "tests") if (at := copies(text))} == {}
    for folder in FOLDERS:
        assert (ROOT / "fedkd" / folder).samefile(ROOT / folder)


UNPICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def unpickles(text: str) -> list[str]:
    """What in a module could run code that a file or a message brings."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names):
                found += [n.name for n in names if n.name.split(".")[0] in UNPICKLERS]
            case ast.ImportFrom(module=str(module), names=names):
                if module.split(".")[0] in UNPICKLERS:
                    found.append(module)
                found += ["torch.load" for n in names if (module, n.name) == ("torch", "load")]
            case ast.Attribute(value=ast.Name("torch"), attr="load"):
                found.append("torch.load")
            case ast.keyword(arg="allow_pickle", value=value):
                found += [] if isinstance(value, ast.Constant) and not value.value else ["numpy"]
    return found


def test_no_module_unpickles() -> None:
    assert unpickles("import joblib") == ["joblib"]
    assert unpickles("from pickle import loads") == ["pickle"]
    assert unpickles("torch.load(path)") == unpickles("from torch import load") == ["torch.load"]
    assert unpickles("np.load(path, allow_pickle=True)") == ["numpy"]
    assert unpickles("np.load(path, allow_pickle=False)") == []
    assert {path: found for path, text in sources(*PACKAGES) if (found := unpickles(text))} == {}


def branches(text: str) -> list[int]:
    """Lines of a module that compare a method, or anything with a method's name."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            equality = any(
                isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops
            )
        elif isinstance(node, ast.match_case):
            operands, equality = (
                [p for p in ast.walk(node.pattern) if isinstance(p, ast.expr)],
                True,
            )
        elif isinstance(node, ast.Match):
            operands, equality = [node.subject], True
        else:
            continue
        if equality and any(is_method(operand) for operand in operands):
            lines.append(getattr(node, "lineno", getattr(operands[0], "lineno", 0)))
    return lines


def is_method(operand: ast.expr) -> bool:
    """Whether it is ``method``, ``....method``, ``....method.name``, or a method's name."""
    match operand:
        case ast.Attribute(value=inner, attr="name"):
            return is_method(inner)
        case ast.Name("method") | ast.Attribute(attr="method"):
            return True
        case ast.Constant(value):
            return value in METHODS
        case ast.Tuple(elements) | ast.List(elements) | ast.Set(elements):
            return any(is_method(element) for element in elements)
    return False


def test_nothing_branches_on_a_method() -> None:
    assert branches("if method == x: pass") == [1]
    assert branches("if run.method.name != x: pass") == [1]
    assert branches("a = name in ('cudfkd', 'other')") == [1]
    assert branches("match name:\n    case 'cudfkd': pass") == [2]
    assert branches("if method is None or plan.rule == 'mean': pass") == []
    assert {path: at for path, text in sources(*PACKAGES) if (at := branches(text))} == {}


def test_no_file_is_too_long() -> None:
    lengths = {path: len(text.splitlines()) for path, text in sources(*PACKAGES)}
    assert {path: length for path, length in lengths.items() if length > LINES} == {}


def body(function: Function) -> int:
    """Lines of what a function does."""
    documented = ast.get_docstring(function) is not None
    statements = function.body[1:] if documented else function.body
    return (function.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def test_no_function_is_too_long() -> None:
    short, _ = ast.parse('def f(\n    x):\n    """Said."""\n    y = x\n    return y\nf()').body
    assert isinstance(short, ast.FunctionDef)
    assert body(short) == 2
    lengths = {
        f"{path}:{node.lineno} {node.name}": body(node)
        for path, text in sources(*PACKAGES, "tests")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, Function)
    }
    assert {name: length for name, length in lengths.items() if length > BODY} == {}


SKIPPED = {"runs", "build", "dist", "shared"}
HOSTS = {"arxiv.org", "doi.org", "www.apache.org", "www.w3.org", "127.0.0.1", "localhost"}
ADDRESS = re.compile(r"[a-z][a-z+]*://(?:[^/\s\"'`<>()@]*@)?([^/:\s\"'`<>()]*)")
MACHINE = re.compile(r"(?<![\w.)}\]-])/(?:home|root|tmp|work|Users|mnt|opt|var|srv|scratch)/[\w.]")
INDEX = re.compile(r"--(?:extra-)?index[-]url|--default[-]index|--find[-]links")


def texts() -> Iterator[tuple[str, str]]:
    """Every text file of the repository; not what runs and tools leave beside them."""
    for top in sorted(ROOT.iterdir()):
        hidden = top.name.startswith(".") and top.name not in {".ci", ".gitignore"}
        if hidden or top.name in SKIPPED or top.suffix == ".egg-info":
            continue
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            if path.is_file() and "__pycache__" not in path.parts:
                try:
                    yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    continue


def local(text: str) -> list[str]:
    """What is true of one machine only, or leads to a host that is not a reference."""
    hosts = [host for host in ADDRESS.findall(text) if host not in HOSTS and host[:1] != "{"]
    return hosts + MACHINE.findall(text) + INDEX.findall(text)


def test_no_file_names_a_machine_or_a_package_host() -> None:
    there = "/".join(["", "home", "me", "data"])
    assert len(local(f"root = {there}")) == len(local(f'open("{there}")')) == 1
    assert local("x = https:" + "//packages.example.org/simple") == ["packages.example.org"]
    assert len(local("pip install --find" + "-links wheels")) == 1
    assert (
        local("http://127.0.0.1:8080/health and a/home/b, https://arxiv.org/abs/2208.13648") == []
    )
    assert {path: found for path, text in texts() if (found := local(text))} == {}
