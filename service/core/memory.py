"""One exception for every way in which torch runs out of memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Torch's messages on a CPU, in CUDA's libraries, and in a traced graph, where the exception's class is lost.
_OUT_OF_MEMORY = re.compile(r"you tried to allocate|out of memory|ALLOC_FAILED")


@contextmanager
def raising_memory_errors() -> Iterator[None]:
    """Turn torch's out-of-memory errors into Python's ``MemoryError``, which numpy raises too."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        raise MemoryError(str(error).strip().splitlines()[-1]) from error
