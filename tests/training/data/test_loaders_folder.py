"""Folders of the user's own images: what counts as a class, and what is refused."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from arn_purify.training import data
from arn_purify.training.cli import main
from arn_purify.training.data.loaders.lisa import import_lisa


def write(path, colour=(7, 7, 7), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def write_split(root, parts, classes=("a", "b")):
    for part in parts:
        for name in classes:
            write(root / part / name / "0.png")


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("litter", [".ipynb_checkpoints", "__MACOSX", ".git", "@eaDir"])
def test_what_a_tool_left_behind_is_no_class_and_no_image(litter, split, tmp_path):
    for part in ("train", "val") if split else (".",):
        for name in ("cat", "dog"):
            for number in range(40):
                write(tmp_path / part / name / f"{number}.png")
            write(tmp_path / part / name / litter / "0.png", (200, 0, 0))
            for file in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
                (tmp_path / part / name / file).write_bytes(b"no image")
        write(tmp_path / part / litter / "0-checkpoint.png", (200, 0, 0))
    folder = data.load("folder", tmp_path, size=8)
    assert folder.class_names == ("cat", "dog")
    assert len(folder.train) + len(folder.validation) + (0 if split else len(folder.test)) == (160 if split else 80)
    assert folder.shape == (1, 8, 8), "a coloured image was read"


def test_a_root_inside_a_hidden_folder_is_read(tmp_path):
    write_split(tmp_path / ".cache" / "photos", ("train", "val"))
    assert len(data.load("folder", tmp_path / ".cache" / "photos", size=8).train) == 2


@pytest.mark.parametrize("left", [None, ".DS_Store"])
def test_an_empty_class_is_refused_by_name(left, tmp_path):
    write_split(tmp_path, ("train", "val"))
    for part in ("train", "val"):
        (tmp_path / part / "bird").mkdir()
        if left:
            (tmp_path / part / "bird" / left).touch()
    with pytest.raises(data.DataError, match=r"train: no image of the class bird"):
        data.load("folder", tmp_path)


def test_a_class_of_one_split_alone_is_refused_by_name(tmp_path):
    write_split(tmp_path, ("train", "test"), ("A", "b"))
    write_split(tmp_path, ("val",), ("a", "b"))
    with pytest.raises(data.DataError, match="train/ has the class A that val/ lacks; val/ has the class a that"):
        data.load("folder", tmp_path)


def test_a_class_that_the_test_split_lacks_is_refused_by_name(tmp_path):
    write_split(tmp_path, ("train", "val"), ("a", "b", "c"))
    write_split(tmp_path, ("test",), ("a",))
    with pytest.raises(data.DataError, match="train/ has the classes b, c that test/ lacks"):
        data.load("folder", tmp_path)


def test_a_class_too_small_to_be_trained_on_is_refused_by_name(tmp_path):
    for number in range(40):
        write(tmp_path / "many" / f"{number}.png")
    write(tmp_path / "few" / "11.png")  # the hash of its name puts it into the test split
    with pytest.raises(data.DataError, match="no image of the class few"):
        data.load("folder", tmp_path)


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "valid"), ("Train", "Val", "Test")])
def test_parts_that_are_not_called_train_and_val_do_not_become_classes(parts, tmp_path):
    write_split(tmp_path, parts)
    with pytest.raises(data.DataError, match="train/ and val/"):
        data.load("folder", tmp_path)


@pytest.mark.parametrize("bad", ["class", "image"])
def test_a_name_that_is_not_utf_8_is_refused_in_a_sentence(bad, tmp_path, capsys):
    write(tmp_path / "a" / "0.png")
    odd = os.fsdecode(b"caf\xe9")
    write(tmp_path / odd / "0.png" if bad == "class" else tmp_path / "a" / f"{odd}.png")
    with pytest.raises(data.DataError, match=r"caf\\xe9.*is not UTF-8"):
        data.load("folder", tmp_path)
    assert main(["craft", "--dataset", "folder", "--data-dir", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("broken", ["truncated", "chunk"])
def test_an_image_that_cannot_be_decoded_is_named(broken, tmp_path):
    write_split(tmp_path, ("train", "val"))
    path = tmp_path / "train" / "a" / "1.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    if broken == "truncated":
        del content[len(content) // 2 :]
    else:
        content[37:41] = b"\0\0\0\0"  # the name of the chunk behind the header: Pillow raises a SyntaxError
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=r"a/1\.png is not an image that can be read"):
        data.load("folder", tmp_path)


def test_lisa_crops_are_not_taken_from_hidden_folders(tmp_path):
    for number in range(20):
        write(tmp_path / "crops" / "stop" / f"{number}.png")
        write(tmp_path / "crops" / "stop" / ".ipynb_checkpoints" / f"{number}-checkpoint.png")
    assert sum(import_lisa(tmp_path / "crops", tmp_path)) == 20


def test_a_folder_is_loaded_either_way(tmp_path):
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        wide = Image.new("RGB", (192, 64), (0, 200, 0))
        wide.paste((200, 0, 0), (0, 0, 48, 64))
        wide.save(tmp_path / part / "a" / "0.png")
    cropped, fitted = (data.load("folder", tmp_path, size=16, fit=mode).train.images[0] for mode in ("crop", "fit"))
    assert cropped[:, 0, 0].tolist() == [0, 200, 0]
    assert fitted[:, 0, 0].tolist() == [0, 0, 0]
    assert fitted[:, 8, 0].tolist() == [200, 0, 0]
    assert torch.equal(data.load("folder", tmp_path, size=16).train.images[0], cropped)
