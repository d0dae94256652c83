"""A whole pass as one graph."""

import gc
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from arn_purify import models
from arn_purify.service.core import onednn
from arn_purify.service.core.step import Step, traced


def resident():
    """Memory that this process has now, in bytes."""
    gc.collect()
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_graph_that_is_let_go_leaves_no_memory_behind():
    step = Step(models.load("mnist-transparent"), integral=True).eval()
    given = torch.randint(256, (3, 28, 28, 1), dtype=torch.uint8)

    def trace_and_run(times):
        for _ in range(times):
            with torch.inference_mode():
                graph = traced(step, given)
                assert graph is not step
                for _ in range(3):
                    graph(given)

    trace_and_run(5)
    before = resident()
    trace_and_run(20)
    assert resident() < before + 20e6


def runs_eagerly(caplog):
    step = Step(models.load("mnist-transparent"), integral=True).eval()
    with torch.inference_mode():
        found = traced(step, torch.zeros(1, 28, 28, 1, dtype=torch.uint8))
    return found is step and "runs eagerly" in caplog.text


def test_a_build_of_torch_without_onednn_runs_eagerly(monkeypatch, caplog):
    def refuse(_):
        raise RuntimeError("Unknown builtin op: mkldnn::_convolution_pointwise")

    monkeypatch.setattr(torch.jit, "CompilationUnit", refuse)
    spec = importlib.util.spec_from_file_location("onednn_of_that_build", onednn.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    onednn._compiled.cache_clear()
    assert runs_eagerly(caplog)


def test_a_torch_without_its_private_tracer_runs_eagerly(monkeypatch, caplog):
    monkeypatch.delattr(torch.jit._trace, "_get_trace_graph")
    assert runs_eagerly(caplog)
