"""``arn-train``, which is ``python -m arn_purify.training``."""

import sys


def main() -> int:
    """The command line; returns the exit status."""
    try:
        from . import cli
    except ModuleNotFoundError as error:
        print(f"arn-train: needs the extra train, as in: pip install '.[train]' ({error})", file=sys.stderr)
        return 2
    cli.retain_freed_memory()
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
