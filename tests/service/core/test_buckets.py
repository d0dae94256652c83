"""Padding, staging and hand-over of recorded batches, with a device that lags behind in the GPU's place."""

import numpy as np
import pytest
import torch

from arn_purify.service.core import buckets
from arn_purify.service.core.buckets import Buckets, Host, Lane
from tests.service.core.lagging import Lagging


def numbered(count, first=1):
    """Images of 2x3 pixels, each of one value of its own."""
    return np.arange(first, first + count, dtype=np.uint8).repeat(6).reshape(count, 2, 3, 1)


def inverting(seen):
    """A network that inverts, gives each image's first value as its number, and notes what it was given."""

    def compute(images):
        seen.append(images.clone().numpy())
        return 255 - images, images.flatten(1)[:, :1].float()

    return compute


def of_inversion(backend, most=8, seen=None):
    lane = Lane(inverting([] if seen is None else seen), (2, 3, 1), torch.uint8, 1)
    return Buckets(backend, {"invert": lane}, most)


def test_a_bucket_is_the_next_power_of_two():
    assert [buckets.bucket_of(count) for count in (1, 2, 3, 4, 5, 64, 65)] == [1, 2, 4, 4, 8, 64, 128]
    lane = Lane(inverting([]), (2, 3, 1), torch.uint8, 1)
    assert lane.buckets(6) == lane.buckets(8) == [8, 4, 2, 1]
    huge = Lane(inverting([]), (4000, 4000, 3), torch.uint8, 2)
    assert huge.buckets(64) == [1], "a slot does not grow with the images"


@pytest.mark.parametrize("backend", [Host, Lagging])
def test_padding_holds_nothing_of_another_batch_and_does_not_leave(backend):
    seen = []
    device = of_inversion(backend(), seen=seen)
    seen.clear()
    for count in (8, 5, 3, 1, 7):
        images = numbered(count, 100)
        answer, numbers = device.begin("invert", images)()
        assert np.array_equal(answer, 255 - images)
        assert numbers.ravel().tolist() == images[:, 0, 0, 0].tolist()
        given = seen.pop()
        assert len(given) == buckets.bucket_of(count)
        assert np.array_equal(given[:count], images)
        assert not given[count:].any()


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (2, 0, 5, 1, 4, 3)])
def test_no_memory_is_used_again_before_it_is_read(order):
    """Six batches are under way in two slots; whoever sent them may write over them meanwhile, and asks late."""
    device = of_inversion(Lagging())
    batches = [numbered(count, 10 * count) for count in (8, 3, 5, 1, 7, 2)]
    flights = []
    for batch in batches:
        sent = batch.copy()
        flights.append(device.begin("invert", sent))
        sent[:] = 0
    for which in order:
        assert np.array_equal(flights[which]()[0], 255 - batches[which])
        assert np.array_equal(flights[which]()[0], 255 - batches[which]), "it may be asked twice"


def test_an_answer_is_not_changed_by_later_batches():
    device = of_inversion(Lagging())
    first, _ = device.begin("invert", numbered(4))()
    for _ in range(3):
        device.begin("invert", numbered(4, 50))()
    assert np.array_equal(first, 255 - numbered(4))


def test_arrays_in_any_order_of_memory_are_taken():
    device = of_inversion(Lagging())
    for images in (np.asfortranarray(numbered(5)), numbered(10)[::-2], numbered(5)[:, ::-1]):
        images.flags.writeable = False
        assert np.array_equal(device.begin("invert", images)()[0], 255 - images)


def test_what_fails_on_the_device_reaches_its_own_batch_alone():
    def compute(images):
        if (images == 66).any():
            raise RuntimeError("the device failed")
        return 255 - images, images.flatten(1)[:, :1].float()

    device = Buckets(Lagging(), {"invert": Lane(compute, (2, 3, 1), torch.uint8, 1)}, 4)
    good, bad, *others = (device.begin("invert", numbered(1, value)) for value in (1, 66, 2, 3, 4))
    assert [int(flight()[0].flat[0]) for flight in (good, *others)] == [254, 253, 252, 251]
    with pytest.raises(RuntimeError, match="the device failed"):
        bad()


def test_recordings_that_memory_does_not_hold_are_left_out(caplog):
    class Small(Host):
        def record(self, operation):
            operation()
            if len(seen[-1]) > 4:
                raise MemoryError("no room")
            return operation

    seen = []
    device = of_inversion(Small(), most=16, seen=seen)
    assert device.largest == 4
    assert caplog.text.count("does not hold every recording: batches are of 4 images at most") == 1
    assert np.array_equal(device.begin("invert", numbered(3))()[0], 255 - numbered(3))
    assert device.takes("invert", numbered(9))
    assert not device.takes("other", numbered(9))
    assert not device.takes("invert", numbered(9)[:, :1])
    assert not device.takes("invert", numbered(0))


def test_a_device_that_holds_no_recording_says_so():
    class Full(Host):
        def record(self, operation):
            raise MemoryError("no room")

    with pytest.raises(MemoryError):
        of_inversion(Full())
