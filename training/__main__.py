"""``python -m arn_purify.training`` is ``arn-train``."""

import sys

from .cli import main

sys.exit(main())
