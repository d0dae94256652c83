"""``python -m arn_purify.training.reproduce NAME``: what ``scripts/reproduce`` runs."""

from ..cli import retain_freed_memory
from .run import main

if __name__ == "__main__":
    retain_freed_memory()
    raise SystemExit(main())
