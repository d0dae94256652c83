"""The hash of a module's code, so that what other code has made is not taken for the same."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef)


@functools.cache
def sha256(module: str) -> str:
    """Hash of a module and of those beside it that it imports (``from .name import``, ``from . import name``).

    Comments, docstrings and line breaks do not change it, nor does the version of Python.
    """
    digest, seen, waiting = hashlib.sha256(), set(), [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        tree = ast.parse(_source(name))
        digest.update("\n".join(_words(tree)).encode())
        waiting += [f"{name.rpartition('.')[0]}.{near}" for near in _near(tree)]
    return digest.hexdigest()


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"no source of {module}")
    return Path(spec.origin).read_text(encoding="utf-8")


def _near(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module] if node.module else [alias.name for alias in node.names]


def _words(node: object) -> Iterator[str]:
    """What a syntax tree says, without docstrings and without fields that are empty."""
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name, field in ast.iter_fields(node):
            has_docstring = name == "body" and isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node) is not None
            yield from _words(field[1:] if has_docstring else field)
    elif isinstance(node, list):
        for child in node:
            yield from _words(child)
    elif node is not None:
        yield repr(node)
