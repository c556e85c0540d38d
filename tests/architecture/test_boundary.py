"""Who may import whom: import contracts, and the same at run time.

The contracts are in pyproject.toml and are checked on the text of the imports; what an
``importlib`` call could do behind their back is refused at run time, by a finder in a subprocess.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("server", "client", "simulations")
"""Installed as fedkd.server and so on; a checkout has them at its root, and as links in fedkd/."""
PACKAGES = ("fedkd", *FOLDERS)
LINT = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"


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


STRANGERS = "server and client meet only in simulations and in what users call from Python"
UPWARDS = "fedkd reads bottom to top"
CIRCLES = "nothing goes in circles, in no room"
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
    ("client/sessions/agent.py", "def f():\n    import fedkd.server.hub.hub", {STRANGERS, UPWARDS}),
    ("fedkd/evaluation/metrics.py", "from fedkd.data import datasets", {DATA, MATHEMATICS}),
    ("fedkd/models/teacher.py", "import fedkd.data.partition", {UPWARDS, FRIEND, ALONE}),
    ("fedkd/protocol/signals.py", "from fedkd import loop", {UPWARDS}),
    ("fedkd/process/logs.py", "import fedkd.simulations.cli", {UPWARDS}),
    ("fedkd/aggregation/fusion_rules.py", "import torchvision.transforms", {MATHEMATICS, FRIEND}),
    ("fedkd/errors.py", "import grpc", {MATHEMATICS}),
    ("fedkd/errors.py", "import fedkd.protocol.signals", {UPWARDS}),
    ("fedkd/protocol/signals.py", "import sklearn.metrics", {FRIEND, ALONE, MATHEMATICS}),
    ("fedkd/privacy/accounting.py", "import fedkd.privacy.budget", {CIRCLES}),
    ("fedkd/wire/tensors.py", "import fedkd.wire.reply_recording", {WIRE, CIRCLES}),
    ("server/hub/hub.py", "import fedkd.server.flower_strategy", {SERVER, CIRCLES}),
    ("client/ledger/hash_chain.py", "import fedkd.client.release.gate", {CLIENT, GATE, CIRCLES}),
    ("client/ledger/journal.py", "import fedkd.client.ledger.ledger", {CIRCLES}),
    (
        "client/vault/teachers/teacher_spec.py",
        "import fedkd.client.vault.teachers.formats",
        {BRINGING},
    ),
    (
        "client/client_app.py",
        "def f():\n    from fedkd.client.vault.vault import Vault",
        {VAULT, ALONE},
    ),
    ("client/control/server.py", "import fedkd.client.vault.trained_vault", {VAULT, ALONE}),
    ("client/control/flower_forwarding.py", "import fedkd.client.release.gate", {GATE, ALONE}),
    ("client/config/owner_config.py", "import fedkd.data.datasets", {DATA, ALONE}),
    ("client/daemon.py", "import fedkd.client.vault.training.dp_sgd", {VAULT, ALONE}),
    ("client/institution/institution.py", "import fedkd.client.vault.local_data", {LOCAL}),
    ("client/institution/institution.py", "import fedkd.client.vault.teachers.formats", {BROUGHT}),
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
    before = spoilt.read_text()
    spoilt.write_text(f"{before}\n{line}\n")
    try:
        assert contracts <= broken(tree)
    finally:
        spoilt.write_text(before)


@pytest.mark.parametrize(
    ("room", "contract"),
    [("fedkd", UPWARDS), ("fedkd/wire", WIRE), ("server", SERVER), ("client", CLIENT)],
)
def test_a_new_module_has_to_find_its_floor(tree: Path, room: str, contract: str) -> None:
    new = tree / room / "utils.py"
    new.touch()
    try:
        assert contract in broken(tree)
    finally:
        new.unlink()


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

from fedkd.experiment import parse_experiment
from fedkd.models import InProcess, build_network
from fedkd.server.coordinator import Coordinator, ingredients

shape = (1, 8, 8)
networks = {f"t{i}": build_network("mlp", 10, shape, seed=i) for i in range(2)}
teachers = InProcess(networks, shape, 10)
experiment = parse_experiment(
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

import fedkd
assert callable(fedkd.fit) and callable(fedkd.load) and callable(fedkd.flower.student_app)
"""

CLIENT_SIDE = """
import fedkd.client
everything(fedkd.client)

import torch
from fedkd.client.institution import simulated_institution
from fedkd.experiment import parse_experiment
from fedkd.protocol import Ask, Signal

experiment = parse_experiment(
    {"name": "tiny", "institutions": {"count": 2, "models": ["mlp"], "epochs": 1}}
)
institution = simulated_institution(experiment, 0, None)
images = torch.zeros(3, *institution.card.shape, dtype=torch.uint8)
reply = institution.answer(Ask(images, frozenset({Signal.LOGITS})))
print("logits:", len(reply.signals[Signal.LOGITS]))

import fedkd
assert callable(fedkd.serve) and callable(fedkd.load) and callable(fedkd.flower.teacher_app)
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
