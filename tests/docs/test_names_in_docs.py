"""Every page names what there is: paths, links, modules, classes, commands, settings, experiments.

Rows between ``<!-- old names -->`` and ``<!-- end -->`` may have names of earlier releases in their
first cell.
"""

import ast
import builtins
import inspect
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from fedkd.client.config.owner_config import OwnerConfig
from fedkd.experiment import Experiment
from fedkd.methods import METHODS
from fedkd.simulations.reproduction.regime import Regime

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("server", "client", "simulations")
OLD_NAMES = re.compile(r"<!-- old names -->(.*?)<!-- end -->", re.DOTALL)
FENCES = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PATH = re.compile(r"(?<![\w./~$-])(?:[\w-]+/)+[\w.*-]*\w|(?<![\w./~$-])(?:[\w-]+/)+")
DOTTED = re.compile(r"(?<![\w./-])fedkd(?:\.[A-Za-z_]\w*)+")
COMMAND = re.compile(r"python3? -m ([\w.]+)")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
SETTING = re.compile(r"(?:--set |--sweep |^)'?([a-z]+)\.(\w+)(?=\s?=|$)")
FILE = re.compile(r"<!-- file: (\S+) -->")
"""Above the text of a file that the reader is to make."""
CLASS = re.compile(r"[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]+)+|[A-Z][a-z]\w*(?=\.\w+)")
EXPERIMENT = re.compile(r"(?:digits|mnist|cifar10)(?:-[\w-]+)?")
FILES = (
    *("bin", "csv", "html", "json", "jsonl", "key", "log", "npz", "onnx", "pem", "py", "sqlite"),
    *("safetensors", "toml"),
)
"""Endings that are no keys of a section."""
FOREIGN = frozenset({"SuperLink", "SuperNode", "ServerApp", "ClientApp", "AdamW", "RecordDict"})
"""Names of other libraries."""
EXAMPLES = frozenset({"stripes", "two-layers", "least_margin", "my_distillation"})
"""Of docs/extending.md, which has a test of its own."""


def tracked(*patterns: str) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for path in listed.stdout.splitlines() if (ROOT / path).exists()]


@cache
def files() -> frozenset[str]:
    """Tracked files, and the folders that they are in."""
    own = {Path(path) for path in tracked()}
    return frozenset(str(p) for path in own for p in (path, *path.parents))


def file_of(module: str) -> Path | None:
    """The file of a module of fedkd."""
    parts = module.split(".")[1:]
    linked = bool(parts) and parts[0] in FOLDERS
    base = (ROOT if linked else ROOT / "fedkd").joinpath(*parts)
    found = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in found if path.is_file()), None)


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a module defines or imports, for readers of types alone too."""
    found: set[str] = set()
    body = ast.parse(path.read_text()).body
    typed = (n for n in body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    for node in (*body, *(each for block in typed for each in block.body)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Assign(targets=targets):
                found |= {t.id for t in targets if isinstance(t, ast.Name)}
            case ast.AnnAssign(target=ast.Name(name)):
                found.add(name)
            case ast.ImportFrom(names=imported) | ast.Import(names=imported):
                found |= {each.asname or each.name for each in imported}
    return frozenset(found)


@cache
def classes() -> dict[str, set[str]]:
    """Members of every class of ours, those of classes of one name together, bases included."""
    members: dict[str, set[str]] = defaultdict(set)
    bases: dict[str, set[str]] = defaultdict(set)
    for path in tracked("*.py"):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.ClassDef):
                bases[node.name] |= {ast.unparse(base).split("[")[0] for base in node.bases}
                members[node.name] |= set(members_of(node))
    for _ in range(4):
        for name in list(members):
            for base in bases[name]:
                members[name] |= members.get(base, set())
    return dict(members)


def members_of(node: ast.ClassDef) -> Iterator[str]:
    for each in ast.walk(node):
        match each:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


@cache
def is_defined(name: str) -> bool:
    """Whether a module of ours defines or imports it."""
    return any(name in names_in(ROOT / path) for path in tracked("*.py"))


@cache
def groups() -> frozenset[str]:
    """Entry-point groups, which look like modules."""
    text = "".join((ROOT / path).read_text() for path in tracked("fedkd/*.py"))
    return frozenset(re.findall(r'^GROUP = "([\w.]+)"', text, re.MULTILINE))


def resolves(name: str) -> bool:
    """Whether ``fedkd.a.b.C.d`` is a module, or something in one, or a group of entry points."""
    if name in groups() or file_of(name):
        return True
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        if (path := file_of(".".join(parts[:i]))) is None:
            continue
        if parts[i] not in names_in(path) and not (i == 1 and parts[i] in public()):
            return False
        return len(parts) <= i + 1 or parts[i + 1] in classes().get(parts[i], set())
    return False


@cache
def public() -> frozenset[str]:
    """Names of the package itself, which are imported when they are first used."""
    import fedkd

    return frozenset(fedkd.__all__)


def runs(module: str) -> bool:
    """Whether ``python -m module`` does something."""
    path = file_of(module)
    if path is not None and path.name == "__init__.py":
        path = path.with_name("__main__.py")
    return path is not None and path.is_file() and "__main__" in str(path) + path.read_text()


@cache
def sections() -> dict[str, set[str]]:
    """Keys by section of an experiment, an owner's file and a regime."""
    known: dict[str, set[str]] = defaultdict(set)
    for model in (Experiment, OwnerConfig, Regime):
        for section, field in model.model_fields.items():
            for table in getattr(field.annotation, "__args__", (field.annotation,)):
                fields = getattr(table, "model_fields", None)
                known[section] |= set(fields or getattr(table, "__dataclass_fields__", ()))
    for factory in METHODS.values():
        known["method"] |= set(inspect.signature(factory).parameters)
    return {section: keys for section, keys in known.items() if keys}


@cache
def experiments() -> frozenset[str]:
    return frozenset(Path(path).stem for path in tracked("simulations/experiments/*.toml"))


def wrong_settings(code: str) -> Iterator[str]:
    """Keys that no experiment, owner's file or regime has."""
    for section, key in SETTING.findall(code):
        known = sections().get(section)
        if known and key not in (*known, *FILES) and not resolves(f"fedkd.{section}.{key}"):
            yield f"{section}.{key} is no setting"


def wrong_rooms(code: str) -> Iterator[str]:
    """Modules that are named without ``fedkd.`` before them."""
    if re.fullmatch(r"[a-z_]+(\.[A-Za-z_]\w*)+", code):
        first, second = code.split(".")[:2]
        room = (ROOT / "fedkd" / first / "__init__.py").is_file() and first not in sections()
        if room and second not in FILES and not resolves(f"fedkd.{code}"):
            yield f"fedkd.{code} is not there"


def wrong_classes(code: str) -> Iterator[str]:
    """Classes, and members of them."""
    if CLASS.match(code) is None or not re.fullmatch(r"[\w.]+(\(.*\))?", code):
        return
    name, _, member = code.split("(")[0].partition(".")
    if name in classes():
        if member and member.split(".")[0] not in classes()[name]:
            yield f"{name} has no {member}"
    elif name not in FOREIGN and not hasattr(builtins, name) and not is_defined(name):
        yield f"{name} is no class"


def wrong_files(code: str) -> Iterator[str]:
    """Experiments, and modules that are named without their folder."""
    if EXPERIMENT.fullmatch(code) and code not in experiments():
        yield f"no experiment {code}"
    if re.fullmatch(r"\w+\.py", code) and not any(f.endswith(f"/{code}") for f in files()):
        yield f"no file {code}"


def wrong_paths(text: str) -> Iterator[str]:
    """Paths from the root of the repository."""
    tops = {name.split("/")[0] for name in files()}
    for path in PATH.findall(re.sub(r"\w+:/{2}\S+", "", text)):
        first, *rest = path.rstrip("/").split("/")
        if first not in tops or not (rest or path.endswith("/")) or "NAME" in path:
            continue
        if not (path.rstrip("/") in files() or ("*" in path and any(ROOT.glob(path)))):
            yield f"no file {path}"


def wrong_modules(text: str) -> Iterator[str]:
    """Dotted names, and modules that are run."""
    for module in COMMAND.findall(text):
        if module.split(".")[0] in FOLDERS or (module.startswith("fedkd.") and not runs(module)):
            yield f"python -m {module} does not run"
    yield from (f"{name} is not there" for name in DOTTED.findall(text) if not resolves(name))


def wrong_fences(text: str) -> Iterator[str]:
    """Settings and imports in blocks of code."""
    for language, block in FENCES.findall(text):
        for line in block.splitlines():
            yield from wrong_settings(line)
        for module, names in re.findall(r"^from (fedkd[\w.]*) import (.+)", block, re.MULTILINE):
            for name in re.findall(r"\w+", names) if language == "python" else ():
                if not resolves(f"{module}.{name}"):
                    yield f"{module} has no {name}"


def wrong(text: str, page: Path) -> Iterator[str]:
    """What a page names and the repository does not have."""
    text = OLD_NAMES.sub(lambda span: re.sub(r"(?m)^\|[^|]*\|", "|", span[1]), text)
    yield from wrong_paths(text)
    yield from wrong_modules(text)
    yield from wrong_fences(text)
    for target in LINK.findall(text):
        if not re.match(r"\w+:", target) and not (page.parent / target).exists():
            yield f"the link to {target} leads nowhere"
    given = set(FILE.findall(text))
    for code in re.findall(r"`([^`\n]+)`", FENCES.sub("", text)):
        if code.split(".")[0] not in EXAMPLES and code not in given:
            for look in (wrong_settings, wrong_rooms, wrong_classes, wrong_files):
                yield from look(code)


@pytest.mark.parametrize("page", tracked("*.md"))
def test_a_page_names_what_there_is(page: str) -> None:
    assert list(wrong((ROOT / page).read_text(), ROOT / page)) == []


@pytest.mark.parametrize(
    "text",
    [
        "see `client/release.py`",
        "in client/vault/nothing/",
        "`python -m simulations.fuzz`",
        "```\npython -m fedkd.simulations.fuzz --messages 9\n```",
        "python -m fedkd.simulations.checks",
        "`fedkd.evaluation.metrics.nothing`",
        "`fedkd.loop.Distillation.nothing`",
        "```python\nfrom fedkd.methods import nothing\n```",
        "[a page](docs/nothing.md)",
        "`method.imitation = 1`",
        "```\nfedkd run digits --set questions.nothing=1\n```",
        "`policy.nothing`",
        "`synthesis.nothing`",
        "`SourceSchedule`",
        "`Distillation.nothing`",
        "`digits-nothing`",
        "`vaults.py`",
    ],
)
def test_a_wrong_name_is_found(text: str) -> None:
    assert list(wrong(text, ROOT / "README.md"))


def test_right_names_are_left_alone() -> None:
    text = (
        "`client/vault/` `fedkd/methods/*.py` `python -m fedkd.simulations.checks.soak`\n"
        "fedkd.loop.Distillation.catch_up `fedkd.priors` `Method` `method.steps_per_batch = 1`\n"
        "[a page](docs/architecture.md) `student.primer_student` `student.steps` "
        "`state.folder` `digits`\n"
        "<!-- old names -->\n| `python -m simulations.fuzz` | `Bank` |\n<!-- end -->\n"
    )
    assert list(wrong(text, ROOT / "README.md")) == []
