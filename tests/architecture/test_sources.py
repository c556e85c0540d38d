"""What every file of the repository keeps to: imports, unpickling, branches, length, hosts."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from fedkd.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("server", "client", "simulations")
"""Installed as fedkd.server and so on; a checkout has them at its root, and as links in fedkd/."""
PACKAGES = ("fedkd", *FOLDERS)
LINES = 350
"""A file of ours is no longer."""
BODY = 60
"""Nor is what a function does, its signature and docstring apart."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*packages: str) -> Iterator[tuple[str, str]]:
    """Every module of ours that nobody generated: its path and its text."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "_pb2" not in path.name:
                yield str(path.relative_to(ROOT)), path.read_text()


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


SKIPPED = {"runs", "build", "dist", "shared", "site"}
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
