"""``python -m arn_purify.training.reproduce NAME``: what ``scripts/reproduce`` runs."""

from .run import main

if __name__ == "__main__":
    raise SystemExit(main())
