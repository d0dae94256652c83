"""The rules of the house: what may import what, how long a file may be, and where its tests lie."""

import ast
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "training", "service")
SOURCES = {room: sorted((ROOT / room).rglob("*.py")) for room in ROOMS}
OURS = [*(path for room in ROOMS for path in SOURCES[room]), ROOT / "arn_purify" / "__init__.py"]
CODE = [
    *OURS,
    *(path for part in ("benchmarks", "examples", "scripts") for path in sorted((ROOT / part).rglob("*.py"))),
]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NETWORK_LIBRARIES = {"aiohttp", "fastapi", "grpc", "httpx", "httpx2", "starlette", "uvicorn"}
MAX_LINES, MAX_FUNCTION_LINES = 400, 60


def shown(path):
    return str(path.relative_to(ROOT))


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=shown)


# -- imports ------------------------------------------------------------------------------------------------------


def module_name(path):
    """The dotted name of a file of ours, without the package: ``service.core.codec``; a package's is its folder's."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in OURS}


def imports(path, tree=None):
    """Dotted names that a file imports, in functions too; one of ours without ``arn_purify.``."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join((*above, *([node.module] if node.module else ())))
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("arn_purify.") for name in names)


def modules(names):
    """Of dotted names those that are modules of ours; a name inside a module counts as the module."""
    for name in names:
        found = name if name in MODULES else name.rpartition(".")[0]
        if found in MODULES:
            yield found


def circles(graph):
    """The strongly connected groups of more than one node, each sorted."""

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    reach = {node: reached(node) for node in graph}
    return {tuple(sorted(b for b in reach[a] if a in reach.get(b, ()))) for a in graph if a in reach[a]}


GRAPH = {name: set(modules(imports(path))) - {name} for name, path in MODULES.items()}


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}) == {("a", "b", "c")}
    assert {"models.arn", "models.checkpoint"} <= GRAPH["models"]
    assert "models" in GRAPH["service.core.purifier"], "absolute imports are seen"
    assert circles(GRAPH | {"models.config": {"models.arn"}}), "relative imports are seen"


@pytest.mark.parametrize("room", ROOMS)
def test_no_modules_import_each_other_in_a_circle(room):
    assert [circle for circle in circles(GRAPH) if any(name.split(".")[0] == room for name in circle)] == []


@each(OURS)
def test_imports_stay_in_their_room(path):
    found = {name.partition(".")[0] for name in imports(path)}
    room = path.relative_to(ROOT).parts[0]
    assert not found & {"pickle", "dill", "joblib"}
    others = {"models": {"training", "service"}, "training": {"service"}, "service": {"training"}}
    assert not found & others.get(room, set(ROOMS) - {"models"})
    if room == "models":
        assert found <= {"models", "torch", "safetensors"} | sys.stdlib_module_names
    if room == "service":
        assert not found & {"advertorch", "sklearn", "tensorboard"}


@each(sorted((ROOT / "service" / "core").rglob("*.py")))
def test_the_core_knows_no_protocol_and_nothing_above_it(path):
    found = set(imports(path))
    assert not {name.partition(".")[0] for name in found} & NETWORK_LIBRARIES
    ours = {name for name in modules(found) if name.startswith("service")}
    assert {n for n in ours if not n.startswith("service.core")} <= {"service.settings", "service.errors"}


@each([path for path in OURS if path.parent.name != "arn_purify"])
def test_no_import_is_for_the_type_checker_alone(path):
    branches = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.If)]
    hidden = [node for node in branches if "TYPE_CHECKING" in ast.unparse(node.test)]
    assert not [name for node in hidden for name in modules(imports(path, node))]


# -- sizes and places ---------------------------------------------------------------------------------------------


@each(CODE + TESTS)
def test_no_file_is_too_long(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


def is_table(function):
    """Whether a function is one expression: a table, not steps to follow."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return len(body) == 1 and isinstance(body[0], ast.Return | ast.Assign | ast.AnnAssign)


@each(CODE)
def test_no_function_is_too_long(path):
    functions = (
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lengths = {f.name: f.end_lineno - f.lineno + 1 for f in functions if not is_table(f)}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@each([p for room in ROOMS for p in TESTS if p.name.startswith("test_") and p.is_relative_to(ROOT / "tests" / room)])
def test_tests_lie_where_their_module_does(path):
    """``tests/service/core/`` tests ``service/core/``; a file named after a module lies in that module's folder."""
    folder = ROOT / path.parent.relative_to(ROOT / "tests")
    assert folder.is_dir()
    homes = {module.parent for module in OURS if module.stem == path.stem.removeprefix("test_")}
    assert not homes or folder in homes


def test_nothing_that_a_command_wrote_is_committed():
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    folders = {line.split("/")[0] for line in listed.splitlines() if "/" in line}
    assert folders == {
        ".ci", "arn_purify", "benchmarks", "docker", "docs", "examples", "models", "results", "scripts", "service",
        "tests", "training",
    }  # fmt: skip


# -- safety -------------------------------------------------------------------------------------------------------


@each(OURS)
def test_nothing_evaluates_text_or_unpickles(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {ast.unparse(call.func) for call in calls}
    assert not names & {"eval", "exec", "torch.save"}
    for call in calls:  # with weights_only nothing but tensors is read
        if ast.unparse(call.func) == "torch.load":
            assert "weights_only=True" in map(ast.unparse, call.keywords)


@pytest.mark.parametrize("path", sorted((ROOT / "models" / "zoo").iterdir()), ids=lambda path: path.name)
def test_released_models_are_safetensors_with_a_card(path):
    assert path.stat().st_size < 25 * 2**20
    if path.suffix in (".md", ".png"):
        assert path.with_suffix(".safetensors").exists()
        return
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert json.loads(data[8 : 8 + length])["__metadata__"]["format"] == "arn-checkpoint-1"
    assert path.with_suffix(".md").exists()
