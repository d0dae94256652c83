"""A queue over a device that a test holds shut or lets run."""

import asyncio
import threading

import numpy as np

from arn_purify.service.core.batcher import Batcher
from arn_purify.service.core.engine import Purified, Work

WORK = Work("m")


class Device:
    """A run function that negates, remembers its calls, and can be held shut."""

    def __init__(self):
        self.calls = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()

    def __call__(self, work, images, requests=1):
        self.entered.set()
        self.open.wait(10)
        self.calls.append((work, images.copy()))
        norms = images.reshape(len(images), -1).astype(np.float32).max(1)
        return Purified(255 - images, norms, norms)

    @property
    def seen(self):
        return sorted(int(image.flat[0]) for _, images in self.calls for image in images)


def images(*values, side=2):
    return np.array(values, np.uint8).repeat(side * side).reshape(len(values), side, side, 1)


def batcher(device, **settings):
    queue = Batcher(device, **{"max_batch_images": 4, "queue_images": 16, **settings})
    queue.start()
    return queue


async def held(queue, device):
    """Keep the device busy with one image, so that what follows has to wait."""
    device.open.clear()
    device.entered.clear()
    task = asyncio.create_task(queue.submit(WORK, images(0), 30))
    await asyncio.to_thread(device.entered.wait, 5)
    return task


async def submit(queue, *values, work=WORK, deadline=30.0, side=2):
    return await queue.submit(work, images(*values, side=side), deadline)
