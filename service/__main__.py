"""``python -m service`` is ``arn``."""

import sys

from .cli import main

sys.exit(main())
