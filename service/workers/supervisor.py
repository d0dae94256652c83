"""The parent of several workers: opens the port, starts them, restarts one that dies, and ends with them.

All workers listen at the sockets that are opened here. A worker that dies takes only those connections with it that it
had accepted; with a socket of its own (``SO_REUSEPORT``) it would also take those that wait for it in the kernel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..environment import warn
from ..settings import Settings, as_json, shares
from ..telemetry.log import configure
from ..telemetry.together import forget_gauges
from .ports import listen, reserve_grpc, url
from .process import excuse
from .table import Stage, Table

logger = logging.getLogger("service.workers")

_PROCESS = "arn_purify.service.workers.process"
# A worker that dies sooner after it was ready, or before, is restarted later each time.
_SECONDS_PROVEN = 10.0
_LONGEST_PAUSE_SECONDS = 30.0
# As many in a row, of one worker, while none is ready, end the service.
_FAILED_STARTS = 3
# An event loop that does nothing for so long never will again.
_SECONDS_STUCK = 60.0
# So long after it looked last, the supervisor itself did not run either.
_SECONDS_ASLEEP = 5.0
# Beyond the time to drain.
_SECONDS_TO_END = 10.0


def supervise(settings: Settings) -> int:
    """Run ``settings.workers`` processes until SIGTERM or SIGINT; returns the exit status.

    Raises:
        OSError: a port is taken, or there is no folder for temporary files.
        ValueError: a worker cannot start; the sentence says why.
    """
    configure(settings.log_level, settings.log_format)
    warn(settings, os.environ)
    folder = Path(tempfile.mkdtemp(prefix="arn-"))
    try:
        with contextlib.ExitStack() as ports:
            sockets = listen(settings, ports)
            if settings.downstream_grpc:
                settings = settings.model_copy(update={"grpc_port": reserve_grpc(settings, ports)})
            return _Supervisor(settings, folder, sockets).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclasses.dataclass
class _Place:
    """A worker's place, whichever process takes it."""

    number: int
    settings: Settings
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    failures: int = 0
    ready_since: float | None = None
    due: float = 0.0


class _Supervisor:
    def __init__(self, settings: Settings, folder: Path, sockets: list[socket.socket]) -> None:
        self._settings, self._folder, self._sockets = settings, folder, sockets
        self._table = Table(folder, settings.workers)
        self._places = [_Place(number, own) for number, own in enumerate(shares(settings), 1)]
        self._signals: list[int] = []
        self._ends: float | None = None
        self._announced = self._was_ready = False
        self._looked = self._awake_since = time.monotonic()

    def run(self) -> int:
        status = 0
        with _noting_signals(self._signals) as wake:
            try:
                while self._ends is None or any(place.process for place in self._places):
                    before, self._looked = self._looked, time.monotonic()
                    if self._looked - before > _SECONDS_ASLEEP:
                        self._awake_since = self._looked
                    for place in self._places:
                        status = max(status, self._look_after(place))
                    self._announce()
                    select.select([wake], [], [], 0.1)
                    with contextlib.suppress(BlockingIOError):
                        wake.recv(1024)
                    while self._signals:
                        self._pass_on(self._signals.pop(0))
            finally:
                self._kill()
        return status

    def _look_after(self, place: _Place) -> int:
        """Start, restart or end a worker as needed; returns 1 where it did not end well."""
        now = time.monotonic()
        if place.process is None:
            if self._ends is None and now >= place.due:
                self._start(place)
        elif (status := place.process.poll()) is not None:
            return self._ended(place, status)
        elif self._table.stage(place.number) == Stage.READY:
            self._was_ready = True
            place.ready_since = place.ready_since or now
            if now - place.ready_since > _SECONDS_PROVEN:
                place.failures = 0
        late = self._ends is not None and now > self._ends
        if place.process and (late or self._stuck(place.number)):
            logger.error("worker %d (process %d) is stuck and is killed", place.number, place.process.pid)
            place.process.kill()
            place.process.wait()
        return 0

    def _stuck(self, number: int) -> bool:
        """Whether a worker's event loop stands still; not right after the whole machine stood still."""
        draining = self._table.stage(number) == Stage.DRAINING  # whose loop waits for connections to close
        awake = time.monotonic() - self._awake_since
        return not draining and min(awake, self._table.silent_seconds(number)) > _SECONDS_STUCK

    def _start(self, place: _Place) -> None:
        excuse(self._folder, place.number).unlink(missing_ok=True)
        handles = [listening.fileno() for listening in self._sockets]
        process = subprocess.Popen(  # noqa: S603 (our own module)
            [sys.executable, "-P", "-m", _PROCESS],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=handles,
            start_new_session=True,  # a terminal's signals come from here alone, once
        )
        place.process, place.ready_since = process, None
        given = {
            "number": place.number, "count": len(self._places), "folder": str(self._folder), "sockets": handles,
            "successor": place.starts > 0 and self._was_ready, "settings": as_json(place.settings),
        }  # fmt: skip
        place.starts += 1
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died already, which is seen later
            process.stdin.write(json.dumps(given).encode() + b"\n")
            process.stdin.flush()  # it stays open: the worker drains when it closes

    def _ended(self, place: _Place, status: int) -> int:
        """A worker has ended: plan when another process takes its place. Returns 1 where it did not end well.

        Raises:
            ValueError: none of them can start; the sentence says why.
        """
        process, place.process = place.process, None
        assert process is not None
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        forget_gauges(place.number, self._folder)
        self._table.write(place.number, Stage.ABSENT)
        if self._ends is not None:
            return int(status not in (0, -signal.SIGTERM))
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        path = excuse(self._folder, place.number)
        reason = path.read_text() if path.exists() else f"it ended with {how}"
        if path.exists() and not self._was_ready:
            raise ValueError(reason)  # it would say the same again
        place.failures += 1
        any_ready = any(self._table.stage(other.number) == Stage.READY for other in self._places)
        if place.failures >= _FAILED_STARTS and not any_ready:
            raise ValueError(f"worker {place.number} has failed {place.failures} times in a row: {reason}")
        pause = min(_LONGEST_PAUSE_SECONDS, 2.0 ** (place.failures - 2)) if place.failures > 1 else 0.0
        place.due = time.monotonic() + pause
        after = f" after {pause:g} s" if pause else ""
        logger.error("worker %d (process %d) is restarted%s: %s", place.number, process.pid, after, reason)
        return 0

    def _announce(self) -> None:
        stages = [self._table.stage(place.number) for place in self._places]
        if not self._announced and all(stages):
            self._announced = True
            logger.info("%d workers running on %s", len(stages), url(self._settings, self._sockets))

    def _pass_on(self, sig: int) -> None:
        """Drain at the first SIGTERM or SIGINT; a second SIGINT ends at once."""
        if self._ends is None:
            self._ends = time.monotonic() + self._settings.drain_seconds + _SECONDS_TO_END
            for listening in self._sockets:  # closed for good once the last worker has closed its own
                listening.close()
            self._send(signal.SIGTERM)
        elif sig == signal.SIGINT:
            self._send(signal.SIGINT)

    def _send(self, sig: signal.Signals) -> None:
        for place in self._places:
            if place.process:
                place.process.send_signal(sig)

    def _kill(self) -> None:
        """End whatever is still there."""
        self._send(signal.SIGTERM)
        latest = time.monotonic() + _SECONDS_TO_END
        for process in filter(None, (place.process for place in self._places)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, latest - time.monotonic()))
            process.kill()
            process.wait()


@contextlib.contextmanager
def _noting_signals(noted: list[int]) -> Iterator[socket.socket]:
    """Note SIGTERM and SIGINT; the socket can be read once one has come, or a worker has ended."""
    wake, waker = socket.socketpair()
    with wake, waker:
        wake.setblocking(False)
        waker.setblocking(False)
        before = {sig: signal.signal(sig, lambda sig, _: noted.append(sig)) for sig in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        try:
            yield wake
        finally:
            signal.set_wakeup_fd(-1)
            for sig, handler in before.items():
                signal.signal(sig, handler)
