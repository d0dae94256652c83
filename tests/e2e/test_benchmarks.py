"""Every benchmark at toy size, without the peers: it runs to its end, and its record says what it should. No speeds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arn_purify.service.core import codec
from arn_purify.service.core.precision import tolerance
from benchmarks import common, soak
from tests.networks import save_photo

ROOT = Path(__file__).parents[2]
BOTH = ["--networks", *common.NETWORKS]


def run(name, out, *flags, fails=False):
    command = [sys.executable, "-m", f"benchmarks.{name}", *flags, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 or fails, done.stdout + done.stderr
    return done.stdout


def record(name, folder, *flags, fails=False):
    path = folder / f"{name}.json"
    run(name, path, *flags, fails=fails)
    written = json.loads(path.read_text())
    assert {"what", "cpu", "cores", "versions", "command"} <= written.keys()
    assert written["command"].startswith(f"python -m benchmarks.{name} ")
    return written


def test_the_second_network_has_about_ninety_megaflops():
    assert 80 < common.megaflops("colour32") < 100


def test_the_soak_tells_wrong_answers():
    image = np.zeros((1, 4, 4, 1), np.uint8)
    case = soak.Case("/purify", {}, b"", image + 1, tolerance=1)
    assert case.right("image/png", codec.encode_image(image[0] + 2))
    assert not case.right("image/png", codec.encode_image(image[0] + 3))
    assert not case.right("image/png", codec.encode_image(np.ones((4, 5, 1), np.uint8)))
    assert not case.right(codec.NPY_TYPE, codec.encode_npy(np.concatenate([image, image])))


def test_the_soak_tells_what_is_lost_and_memory_that_grows():
    counts = {"sent": 3, "answered": 2, "refused": 1, "wrong": 0, "lost": 0}
    level = [{"seconds": float(second), "rss_mb": 100.0} for second in range(600)]
    growing = [{**sample, "rss_mb": 100 + sample["seconds"] / 100} for sample in level]
    assert all(soak.criteria(counts, 99.5, level, 10).values())
    for change in ({"answered": 1}, {"wrong": 1}, {"lost": 1}, {"refused": 0}):
        assert not all(soak.criteria({**counts, **change}, 99.5, level, 10).values())
    assert not all(soak.criteria(counts, 99.5, growing, 10).values())
    assert not all(soak.criteria(counts, 98.5, level, 10).values())


@pytest.mark.slow
def test_the_engine_and_every_backend_answer_alike(tmp_path):
    flags = ["--threads", "1", "--batches", "1", "3", "--rounds", "1", "--seconds", "0.01"]
    backends = ["--backends", "channels_last", "traced", "ONNX Runtime", "OpenVINO", "engine", "engine bf16"]
    rows = record("engine", tmp_path, *flags, *BOTH, *backends)["rows"]
    assert {row["network"] for row in rows} == set(common.NETWORKS)
    assert {"channels_last", "traced", "engine", "engine bf16"} <= {row["backend"] for row in rows}
    for row in rows:
        assert row["images_per_second"] > 0
        if "bf16" not in row["backend"]:
            assert row["largest_deviation_levels"] <= 1, row
        elif row["backend"] == "engine bf16":  # the others are what torch and OpenVINO make of it
            assert row["largest_deviation_levels"] <= tolerance("bf16", "cpu")[1], row


@pytest.mark.slow
def test_crafting_and_training_are_timed(tmp_path):
    written = record("training", tmp_path, "--threads", "1", "--batch", "8", "--rounds", "1", "--seconds", "0.01")
    assert written["image_steps_per_second"] > 0
    assert written["steps_per_second"] > 0


@pytest.mark.slow
def test_what_is_measured_on_a_gpu_is_measured_on_a_cpu_too(tmp_path):
    toy = ["--device", "cpu", "--networks", "mnist-transparent", "--batches", "1", "4", "--rounds", "1"]
    written = record("gpu", tmp_path, *toy, "--seconds", "0.1")
    (found,) = written["networks"]
    assert [row["batch"] for row in found["rows"]] == [1, 4]
    assert all(row[kind] > 0 for row in found["rows"] for kind in ("bare", "engine", "http"))
    assert 0 < found["engine_single_ms"] < found["p99_ms"]
    assert found["recorded_images"] == 0, "arn serve records nothing on a CPU"


@pytest.mark.slow
def test_a_soak_loses_nothing_and_compares_everything(tmp_path):
    toy = ["--threads", "1", "--minutes", "0.1", "--probe-seconds", "1", "--every", "0.5"]
    written = record("soak", tmp_path, *toy, fails=True)  # memory is not level yet, and the queue may hold it all
    counts = written["counts"]
    assert written["faults"] == []
    assert counts["wrong"] == counts["lost"] == 0
    assert counts["sent"] == counts["answered"] + counts["refused"] > 0
    assert counts["hung up"] > 0
    assert written["samples"][-1]["rss_mb"] > 0


@pytest.mark.slow
def test_load_on_the_service_alone_and_the_plots(tmp_path):
    try:
        common.wrk()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"wrk is not installed and cannot be fetched: {error}")
    short = ["--threads", "1", "--rounds", "1", "--seconds", "1"]
    path = tmp_path / "http-colour32-1.json"
    run("http", path, *short, "--network", "colour32", "--connections", "1", "8", "--servers", "arn")
    for sample in json.loads(path.read_text())["medians"]["arn"].values():
        assert sample["errors"] == 0
        assert sample["rps"] > 0
    toy = ["--networks", "mnist-transparent", "--counts", "1", "8", "--batches", "8"]
    rows = record("bulk", tmp_path, *short, *toy)["rows"]
    assert [(row["route"], row["images"]) for row in rows] == [
        (".npy", 1), (".npy", 8), ("V2 binary", 1), ("V2 binary", 8),
    ]  # fmt: skip
    columns = record("profile", tmp_path, *short, "--connections", "1")["microseconds"]
    assert columns["1"]["infer"] > 0
    run("plot", tmp_path, "--results", str(tmp_path))
    assert (tmp_path / "speed.png").stat().st_size > 0


@pytest.mark.slow
def test_photographs_are_timed_beside_their_classifier_and_over_http(tmp_path):
    purifier, toy = str(save_photo(tmp_path / "photo.safetensors")), ["--threads", "1", "--rounds", "1"]
    few = ["--batches", "1", "2", "--seconds", "0.01", "--backends", "channels_last", "--purifier", purifier]
    written = record("photographs", tmp_path, *toy, *few)
    assert {(row["batch"], row["backend"]) for row in written["rows"]} == {
        (1, "channels_last"), (1, "as served"), (2, "channels_last"), (2, "as served"),
    }  # fmt: skip
    for row in written["rows"]:
        assert row["ratio"] == pytest.approx(row["purifier_ms"] / row["classifier_ms"])
    assert set(written["megaflops"]) == {"photo", "photo-efficientnet-lite0"}
    try:
        common.wrk()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"wrk is not installed and cannot be fetched: {error}")
    alone = ["--photographs", "--precision", "fp32", "--seconds", "5", "--connections", "1", "--servers", "arn"]
    medians = record("http", tmp_path, *toy, *alone, "--purifier", purifier)["medians"]
    assert set(medians) == {"224x224", "640x480"}
    for by_server in medians.values():
        assert by_server["arn"]["1"]["errors"] == 0
