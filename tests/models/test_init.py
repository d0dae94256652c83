"""What `arn_purify` gives its users: names, and `purify` in one call."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import arn_purify
from arn_purify import models

X = torch.rand(4, 1, 28, 28)


@pytest.fixture
def loads(monkeypatch):
    """The names of the checkpoints that were read from disk since the test began."""
    read, found = models.checkpoint.load, []
    monkeypatch.setattr(
        models.checkpoint, "load", lambda path, device: (found.append(path.stem), read(path, device))[1]
    )
    models._unchanged.cache_clear()
    yield found
    models._unchanged.cache_clear()


def test_one_line_purifies():
    assert arn_purify.purify(X).shape == X.shape
    assert torch.equal(arn_purify.purify(X), arn_purify.load("mnist-transparent")(X))
    assert torch.equal(arn_purify.purify(X, "identity"), X)
    assert {"mnist-lenet5", "mnist-transparent"} <= set(arn_purify.available())


def test_a_classifier_purifies_nothing():
    with pytest.raises(ValueError, match="mnist-lenet5 is a classifier, not a purifier"):
        arn_purify.purify(X, "mnist-lenet5")


def test_purify_reads_a_checkpoint_once(loads):
    for _ in range(3):
        arn_purify.purify(X)
    assert loads == ["mnist-transparent"]


def test_purify_reads_a_changed_file_anew(loads, tmp_path):
    path = tmp_path / "mine.safetensors"
    for name in ("mnist-transparent", "mnist-hardened"):
        shutil.copyfile(models.ZOO / f"{name}.safetensors", path)
        assert torch.equal(arn_purify.purify(X, path), models.load(name)(X))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        arn_purify.purify(X, path)


def test_purify_keeps_few_checkpoints(loads, tmp_path):
    for i in range(10):
        shutil.copyfile(models.ZOO / "mnist-transparent.safetensors", tmp_path / str(i))
        arn_purify.purify(X, tmp_path / str(i))
    assert models._unchanged.cache_info().currsize <= 4


def test_threads_that_start_together_read_once_and_agree(loads):
    start = threading.Barrier(8)

    def purify(_):
        start.wait()
        return arn_purify.purify(X)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(purify, range(8)))
    assert loads == ["mnist-transparent"]
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_module_without_that_name_says_so():
    with pytest.raises(AttributeError, match="no attribute 'purified'"):
        arn_purify.purified  # noqa: B018
