"""Code of the user's own: a module, found in the working folder too, or what ``module:function`` returns."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any


@contextlib.contextmanager
def _working_folder_on_path() -> Iterator[None]:
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path.pop(0)


def module(name: str) -> ModuleType:
    """The module of that name.

    Raises:
        ValueError: it cannot be imported.
    """
    try:
        with _working_folder_on_path():
            return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{name}: {error}") from error


def has(spec: str) -> bool:
    """Whether ``module:function`` is the name of a function as it stands.

    Raises:
        ValueError: there is no such module.
    """
    name, colon, function = spec.partition(":")
    return bool(colon) and hasattr(module(name), function)


def call(spec: str) -> Any:
    """What the function of ``module:function`` returns, called without arguments.

    Raises:
        ValueError: there is no such module or function, or it takes arguments.
    """
    name, _, function = spec.partition(":")
    try:
        with _working_folder_on_path():
            return getattr(importlib.import_module(name), function)()
    except (ImportError, AttributeError, TypeError, RuntimeError) as error:  # the last of load_state_dict
        raise ValueError(f"{spec}: {error}".partition("\n")[0]) from error


def sha256(spec: str, made: object, *parts: bytes) -> str:
    """Hash of what :func:`call` made: ``spec``, ``parts``, and the source of the function's and the class's module."""
    names = dict.fromkeys((spec.partition(":")[0], type(made).__module__))
    files = [getattr(sys.modules[name], "__file__", None) for name in names]
    sources = [Path(file).read_bytes() for file in files if file]
    return hashlib.sha256(b"\n".join([spec.encode(), *parts, *sources])).hexdigest()


def spec_of(name: str) -> str:
    """``module:function`` of a :func:`short_name`, with the endings that it has."""
    found = re.fullmatch(r"([A-Za-z_][\w.]*)\.([A-Za-z_]\w*(?:@.*)?)", name)
    return f"{found[1]}:{found[2]}" if found else name


def short_name(spec: str) -> str:
    """``module.function``: the name in cards and records, which is also part of a file's name."""
    return spec.removeprefix("arn_purify.training.").replace(":", ".")
