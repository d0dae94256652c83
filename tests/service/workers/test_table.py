"""Who takes the next connection, who is ready, who swaps."""

import time

import pytest

from arn_purify.service.errors import SwapUnderWay, Warming
from arn_purify.service.workers import table
from arn_purify.service.workers.table import Stage, Table, Worker


@pytest.fixture
def three(tmp_path):
    workers = [Worker(number, 3, tmp_path, successor=False) for number in (1, 2, 3)]
    for worker in workers:
        worker.publish(Stage.READY, 0)
    return workers


def takes(worker, connections):
    worker.publish(connections=connections)
    return worker.leave_seconds() == 0


def test_the_worker_with_the_fewest_connections_takes_the_next(three):
    first, second, third = three
    assert all(takes(worker, 0) for worker in three)
    assert not takes(first, 1)
    assert takes(second, 0)
    second.publish(connections=1)
    assert not takes(first, 1), "the third has none"
    third.publish(connections=1)
    assert takes(first, 1)
    for worker in three:
        worker.publish(connections=100)
    assert takes(first, 112), "of many, some more make no difference"
    assert not takes(first, 113)


def test_nothing_is_left_to_a_worker_that_cannot_take_it(three, monkeypatch):
    first, _, third = three
    first.table.write(2, Stage.ABSENT)
    third.publish(Stage.DRAINING, 0)
    assert takes(first, 5)
    third.publish(Stage.READY, 0)
    assert not takes(first, 5)
    monkeypatch.setattr(table, "_SECONDS_SILENT", 0.0)
    assert takes(first, 5), "its loop is stuck"


def test_a_worker_that_drains_leaves_new_connections_to_those_that_serve(three):
    first, second, third = three
    first.publish(Stage.DRAINING, 0)
    assert not takes(first, 0)
    for worker in (second, third):
        worker.publish(Stage.DRAINING)
    assert takes(first, 0), "somebody has to refuse them"


def test_all_are_ready_only_together(three, monkeypatch):
    first, second, third = three
    first.check_all()
    for stage in (Stage.STARTING, Stage.DRAINING):
        third.publish(stage)
        with pytest.raises(Warming, match="worker 3 of 3 is not ready"):
            first.check_all()
    first.table.write(3, Stage.ABSENT)
    with pytest.raises(Warming, match="worker 3 of 3"):
        second.check_all()
    third.publish(Stage.READY)
    second.check_all()
    monkeypatch.setattr(table, "_SECONDS_SILENT", 0.0)
    time.sleep(0.001)
    with pytest.raises(Warming, match="worker 1 of 3"):
        second.check_all()


def test_the_table_has_the_processes_that_there_are(three, tmp_path):
    first, *_ = three
    seen = Table(tmp_path, 3)
    assert len(seen.pids()) == 3
    first.table.write(2, Stage.ABSENT)
    assert len(seen.pids()) == 2
    assert seen.silent_seconds(2) == 0
    assert seen.silent_seconds(1) > 0


def test_no_swap_begins_beside_another_or_beside_a_worker_that_starts(three, tmp_path):
    first, second, _ = three
    with first.swapping(), pytest.raises(SwapUnderWay), second.swapping():
        pass
    with second.swapping():
        pass
    late = Worker(3, 3, tmp_path, successor=True)
    late.hold_swaps()
    late.publish(Stage.STARTING)
    with pytest.raises(SwapUnderWay), first.swapping():
        pass
    for worker in (first, late):  # who asks the one that starts is told so too, and not that it is ready
        with pytest.raises(Warming, match="worker 3 of 3"):
            worker.check_all()
    late.publish(Stage.READY)
    late.check_all()
    with first.swapping():
        pass


def test_what_was_swapped_is_there_for_those_that_come_later(three, tmp_path):
    first, second, _ = three
    assert second.swapped() == {}
    first.record_swap("a", tmp_path / "one")
    second.record_swap("b", tmp_path / "two")
    first.record_swap("a", tmp_path / "three")
    assert second.swapped() == {"a": tmp_path / "three", "b": tmp_path / "two"}
