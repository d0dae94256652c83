"""The rooms keep their doors shut."""

import ast
import json
import struct
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for room in ("models", "training", "service") for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path):
    """Top-level names that a file imports; of this package's own, the room."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("arn_purify.").partition(".")[0] for name in names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stay_in_their_room(path):
    found = set(imports(path))
    room = path.relative_to(ROOT).parts[0]
    assert not found & {"pickle", "dill", "joblib"}
    assert not found & {"models": {"training", "service"}, "training": {"service"}, "service": {"training"}}[room]
    if room == "models":
        assert found <= {"torch", "safetensors"} | sys.stdlib_module_names
    if room == "service":
        assert not found & {"advertorch", "sklearn", "tensorboard"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_evaluates_text_or_unpickles(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {ast.unparse(call) for call in calls}
    assert not names & {"eval", "exec", "torch.load", "torch.save"}


@pytest.mark.parametrize("path", sorted((ROOT / "models" / "zoo").iterdir()), ids=lambda path: path.name)
def test_what_ships_is_safetensors_with_a_card(path):
    assert path.stat().st_size < 25 * 2**20
    if path.suffix in (".md", ".png"):
        assert path.with_suffix(".safetensors").exists()
        return
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    assert json.loads(data[8 : 8 + length])["__metadata__"]["format"] == "arn-checkpoint-1"
    assert path.with_suffix(".md").exists()
