"""The command line: without the extra ``serve``, and ``arn purify`` over folders."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import arn_purify
from arn_purify import models
from arn_purify.models import imagenet
from arn_purify.service.cli import main
from tests.networks import save_photo

EXTRA = ("aiohttp", "fastapi", "grpc", "numpy", "orjson", "PIL", "prometheus_client", "pydantic", "pydantic_settings",
         "starlette", "tqdm", "uvicorn")  # fmt: skip
PROGRAM = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRA!r}))
from arn_purify.service.cli import main
sys.exit(main())
"""


def arn(*arguments):
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)


def test_models_are_listed_without_any_extra():
    done = arn("models")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [*models.available(), imagenet.NAME]


def test_the_version_is_the_packages():
    done = arn("--version")
    assert (done.returncode, done.stdout) == (0, f"arn {arn_purify.__version__}\n"), done.stderr


@pytest.mark.parametrize("arguments", [["serve"], ["serve", "--port", "1"], ["purify", "in.png", "out.png"]])
def test_the_other_commands_say_which_extra_to_install(arguments):
    done = arn(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"arn: {arguments[0]} needs the extra serve")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["models", "--port", "1"], ["sing"], []])
def test_what_no_command_knows_is_an_error(arguments):
    done = arn(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: arn")


def digit(path, size=(28, 28)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, size[::-1], np.uint8)).save(path)


def purify(capsys, *arguments):
    """The exit status, and what was written to stdout and to stderr."""
    status = main(["purify", *map(str, arguments), "--device", "cpu"])
    said = capsys.readouterr()
    return status, said.out, said.err


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def source(tmp_path):
    for name in ("a.png", "deep/b.png", "deep/c.png"):
        digit(tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.mark.parametrize("broken", ["truncated", "empty", "other size", "unreadable link"])
def test_a_bad_file_is_named_and_the_others_are_purified(broken, source, tmp_path, capsys):
    bad = source / "deep" / "bad.png"
    digit(bad, (28, 28) if broken == "truncated" else (40, 30))
    if broken == "truncated":
        bad.write_bytes(bad.read_bytes()[:300])
    elif broken == "empty":
        bad.write_bytes(b"")
    elif broken == "unreadable link":
        bad.unlink()
        bad.symlink_to("nowhere.png")
    status, out, err = purify(capsys, source, tmp_path / "out")
    assert status == 2
    assert written(tmp_path / "out") == ["a.png", "deep/b.png", "deep/c.png"]
    assert out == f"3 image(s) purified into {tmp_path / 'out'}, 1 not (named above)\n"
    (line,) = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("arn: ")]
    assert line.startswith(f"arn: {bad}: ")


def test_where_every_file_is_bad_nothing_is_written(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    assert purify(capsys, tmp_path / "in", tmp_path / "out")[0] == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["._a.png", ".hidden.png", ".ipynb_checkpoints/a.png", "__MACOSX/a.png", "deep/.git/a.png"]
)
def test_hidden_files_are_skipped(name, source, tmp_path, capsys):
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (source / name).write_bytes(b"resource fork")
    status, out, _ = purify(capsys, source, tmp_path / "out")
    assert (status, out) == (0, f"3 image(s) purified into {tmp_path / 'out'}\n")


def test_results_inside_the_source_are_not_purified_again(source, capsys):
    for _ in range(2):
        status, out, _ = purify(capsys, source, source / "deep" / "out")
        assert (status, out) == (0, f"3 image(s) purified into {source / 'deep' / 'out'}\n")
    assert written(source / "deep" / "out") == ["a.png", "deep/b.png", "deep/c.png"]


def test_results_do_not_go_where_the_images_are(source, capsys):
    before = (source / "a.png").read_bytes()
    status, _, err = purify(capsys, source, source / "deep" / "..")
    assert status == 2
    assert "name another one for the results" in err
    assert (source / "a.png").read_bytes() == before


def test_files_of_other_types_are_counted(source, tmp_path, capsys):
    (source / "animation.gif").write_bytes(b"GIF89a")
    status, out, _ = purify(capsys, source, tmp_path / "out")
    assert (status, out) == (0, f"3 image(s) purified into {tmp_path / 'out'}, 1 file(s) of other types not read\n")


def test_no_result_takes_anothers_name(tmp_path, capsys):
    names = ["a.bmp", "a.bmp.bmp", "a.bmp.png", "a.png", "a.webp"]
    for name in names:
        digit(tmp_path / "in" / name)
    assert purify(capsys, tmp_path / "in", tmp_path / "out")[0] == 0
    assert len(written(tmp_path / "out")) == len(names)
    assert {"a.png", "a.bmp.png"} <= set(written(tmp_path / "out"))


def test_names_that_are_not_utf_8_are_kept(tmp_path, capsys):
    odd = os.fsdecode(b"caf\xe9")
    digit(tmp_path / odd / f"{odd}.png")
    status, out, _ = purify(capsys, tmp_path / odd, tmp_path / f"{odd}-out")
    assert (status, out) == (0, f"1 image(s) purified into {tmp_path}/caf\\xe9-out\n")
    assert (tmp_path / f"{odd}-out" / f"{odd}.png").is_file()


# -- photographs ---------------------------------------------------------------------------------------------------


def photograph(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC).save(path)


def read(path):
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def test_photographs_of_any_size_become_pngs_of_theirs(tmp_path, capsys):
    model = save_photo(tmp_path / "photo.safetensors")
    sizes = {"square.jpg": (224, 224), "wide.jpg": (300, 65), "deep/long.webp": (70, 1100)}
    for name, size in {**sizes, "small.png": (64, 200)}.items():
        photograph(tmp_path / "in" / name, size)
    status, out, err = purify(capsys, tmp_path / "in", tmp_path / "out", "--model", model)
    assert (status, out) == (2, f"3 image(s) purified into {tmp_path / 'out'}, 1 not (named above)\n")
    assert "small.png: 64x200, photo takes 224x224 and from 65x65 up; --resize or --fit" in err
    for name, size in sizes.items():
        back = read((tmp_path / "out" / name).with_suffix(".png"))
        given = torch.from_numpy(read(tmp_path / "in" / name))
        with torch.inference_mode():
            wanted = models.load(model)(given.permute(2, 0, 1)[None] / 255).mul(255).round()
        assert back.shape == (size[1], size[0], 3)
        assert np.abs(back - wanted[0].permute(1, 2, 0).numpy()).max() <= 1
    status, _, _ = purify(capsys, tmp_path / "in", tmp_path / "resized", "--model", model, "--resize")
    assert {read(path).shape for path in (tmp_path / "resized").rglob("*.png")} == {(224, 224, 3)}


@pytest.mark.slow  # a minute
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units")
def test_a_photograph_of_12_million_pixels_takes_less_than_2_gb(tmp_path):
    photograph(tmp_path / "large.jpg", (4000, 3000))
    program = (
        "import resource, sys; from arn_purify.service.cli import main; assert main(sys.argv[1:]) == 0;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    model = save_photo(tmp_path / "photo.safetensors")
    command = [
        sys.executable,
        "-c",
        program,
        "purify",
        tmp_path / "large.jpg",
        tmp_path / "large.png",
        "--model",
        model,
    ]
    done = subprocess.run([*map(str, command), "--device", "cpu"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "large.png").shape == (3000, 4000, 3)
    assert int(done.stdout.splitlines()[-1]) < 2e6  # kB
