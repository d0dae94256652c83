"""The process of one worker, which the supervisor starts: ``python -m arn_purify.service.workers.process``."""

from __future__ import annotations

import json
import select
import shutil
import socket
import sys
from pathlib import Path

from ..errors import ServiceError
from ..settings import from_json
from .table import Worker

CHANNEL = 0
"""The file descriptor from which a worker reads who it is; it closes when the supervisor ends."""


def excuse(folder: Path, number: int) -> Path:
    """The file in which a worker that cannot start says why."""
    return folder / f"{number}.excuse"


def main() -> int:
    """Serve until a signal comes, or the supervisor ends; returns the exit status."""
    with open(CHANNEL, "rb", buffering=0, closefd=False) as channel:
        line = channel.readline()
    if not line.endswith(b"\n"):  # the supervisor has ended already
        return 1
    given = json.loads(line)
    worker = Worker(given["number"], given["count"], Path(given["folder"]), given["successor"])
    try:
        from ..telemetry.together import count_together

        count_together(worker)
        from ..serve import Seat, serve

        sockets = [socket.socket(fileno=handle) for handle in given["sockets"]]
        return serve(from_json(given["settings"]), Seat(worker, sockets, CHANNEL))
    except (OSError, ValueError, ServiceError, ImportError) as error:
        excuse(worker.folder, worker.number).write_text(str(error))
        return 2
    finally:
        if select.select([CHANNEL], [], [], 0)[0]:  # the supervisor was killed and could not clear up
            shutil.rmtree(worker.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
