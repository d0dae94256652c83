"""``arn-train``, which is ``python -m arn_purify.training``."""

import sys


def main() -> int:
    """The command line; returns the exit status."""
    try:
        from .cli import main as run
        from .cli import retain_freed_memory
    except ModuleNotFoundError as error:
        print(f"arn-train: needs the extra train, as in: pip install '.[train]' ({error})", file=sys.stderr)
        return 2
    retain_freed_memory()
    return run()


if __name__ == "__main__":
    sys.exit(main())
