"""A device that does nothing before it is waited for, and then no more than it must: whoever reads too early, or writes
where something is still to be read, gets wrong images.
"""

from collections import deque

from arn_purify.service.core.buckets import Host


class _Event:
    def __init__(self, queue, count):
        self.queue, self.count = queue, count

    def synchronize(self):
        while self.queue.done < self.count:
            self.queue.done += 1
            self.queue.left.popleft()()


class _Queue:
    def __init__(self):
        self.left, self.done = deque(), 0

    def put(self, operation):
        self.left.append(operation)

    def mark(self):
        return _Event(self, self.done + len(self.left))

    def wait(self, event):
        self.put(event.synchronize)


class Lagging(Host):
    """The device; recordings are the operations themselves, as on a CPU."""

    def __init__(self):
        self.arriving, self.computing, self.leaving = _Queue(), _Queue(), _Queue()
