"""``python -m arn_purify.service`` is ``arn``."""

import sys

from .cli import main

sys.exit(main())
