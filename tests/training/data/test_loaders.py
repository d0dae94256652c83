"""Loaders: sizes, splits, checksums, and folders of the user's own images."""

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from arn_purify.training import data
from arn_purify.training.data.loaders import cifar10 as cifar10_loader
from arn_purify.training.data.loaders import files, lisa

needs = {
    name: pytest.mark.skipif(
        not (Path(os.environ.get("ARN_DATA_DIR", "data")) / name).is_dir(), reason=f"{name} is not in ARN_DATA_DIR"
    )
    for name in ("mnist", "cifar10", "lisa")
}


@needs["mnist"]
def test_mnist_is_split_as_documented():
    mnist = data.load("mnist")
    assert (len(mnist.train), len(mnist.validation), len(mnist.test)) == (55_000, 5_000, 10_000)
    assert mnist.shape == (1, 28, 28)
    assert torch.bincount(mnist.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_digits_need_no_download_and_fill_the_grey_range():
    digits = data.load("digits")
    assert digits.shape == (1, 28, 28)
    assert sum(map(len, (digits.train, digits.validation, digits.test))) == 1797
    images, labels = digits.train.batch(slice(0, 100))
    assert (images.min(), images.max()) == (0, 1)
    assert labels.dtype == torch.int64


@needs["cifar10"]
def test_cifar10_is_split_as_documented():
    cifar10 = data.load("cifar10")
    assert [len(cifar10.split(part)) for part in ("train", "validation", "test")] == [45_000, 5_000, 9_980]
    assert cifar10.shape == (3, 32, 32)
    with np.load(data.folder() / "cifar10" / "test.npz") as file:
        kept = file["images"][file["lossless"]].transpose(0, 3, 1, 2)
    assert torch.equal(cifar10.test.images, torch.from_numpy(kept))


def test_cifar10_from_the_official_archive(tmp_path, monkeypatch):
    rows = np.zeros((10_000, 3073), np.uint8)
    rows[:, 0] = np.arange(10_000) % 10
    path = tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for index, name in enumerate(("test_batch", *(f"data_batch_{i}" for i in range(1, 6)))):
            rows[7, 1 + 1024 : 1 + 2048] = 200 if index == 1 else 0  # the green plane of the first batch's
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            member.size = rows.nbytes
            archive.addfile(member, io.BytesIO(rows.tobytes()))
    with pytest.raises(data.DataError, match="checksum"):
        data.load("cifar10", tmp_path)
    monkeypatch.setattr(cifar10_loader, "_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    cifar10 = data.load("cifar10", tmp_path)
    assert [len(cifar10.split(part)) for part in ("train", "validation", "test")] == [45_000, 5_000, 9_980]
    assert cifar10.train.images[7, :, 3, 4].tolist() == [0, 200, 0]
    assert cifar10.train.labels[:12].tolist() == [*range(10), 0, 1]


@needs["lisa"]
def test_lisa_is_split_by_image_and_by_track():
    lisa_, tracked = data.load("lisa"), data.load("lisa-track")
    assert len(lisa_.train) + len(lisa_.validation) == 3_509
    assert len(lisa_.test) == 1_148
    sizes = [len(tracked.split(part)) for part in ("train", "validation", "test")]
    assert sum(sizes) == 4_657
    assert 1_100 < sizes[2] < 1_250
    assert (torch.bincount(tracked.test.labels, minlength=16) > 10).all()


def test_no_track_is_in_two_parts():
    generator = np.random.default_rng(1)
    tracks = np.array([f"t{i}" for i in generator.integers(0, 40, 600)])
    labels = np.array([int(t[1:]) % 4 if generator.random() < 0.9 else 3 for t in tracks])
    part_of = lisa.by_track(labels, tracks, (0.7, 0.1, 0.2))
    for track in np.unique(tracks):
        assert len(np.unique(part_of[tracks == track])) == 1
    for label in range(4):
        shares = [float((part_of[labels == label] == part).mean()) for part in range(3)]
        assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.12)


def test_lisa_says_where_to_put_it_and_imports_crops(tmp_path):
    with pytest.raises(data.DataError, match="import-lisa"):
        data.load("lisa", tmp_path)
    for label in ("stop", "yield", "rampSpeedAdvisory20"):
        for number in range(20):
            write(
                tmp_path / "crops" / label / f"{label}_{number // 4}.avi_image{number}.png", (200, number, 0), (30, 40)
            )
    assert lisa.import_lisa(tmp_path / "crops", tmp_path) == (30, 10)
    found = data.load("lisa-track", tmp_path)
    assert found.class_names[12] == "stop"
    assert set(found.test.labels.tolist()) == {12, 15}
    assert found.shape == (3, 32, 32)
    with pytest.raises(data.DataError, match="neither"):
        lisa.import_lisa(tmp_path / "nothing", tmp_path)


def test_lisa_imports_the_original_data_set(tmp_path):
    columns = (
        "Filename;Annotation tag;Upper left corner X;Upper left corner Y;Lower right corner X;Lower right corner Y;"
        "Occluded,On another road;Origin file;Origin frame number;Origin track;Origin track frame number\n"
    )
    frame = Image.new("RGB", (200, 100))
    frame.paste((0, 0, 250), (50, 20, 90, 60))
    (tmp_path / "source" / "video").mkdir(parents=True)
    frame.save(tmp_path / "source" / "video" / "frame.png")
    rows = [
        f"video/frame.png;{tag};50;20;90;60;{occluded},0;video.avi;1;{tag}_{n}.avi;1\n"
        for n, (tag, occluded) in enumerate([("stop", 0)] * 8 + [("stop", 1), ("intersection", 0)])
    ]
    (tmp_path / "source" / "allAnnotations.csv").write_text(columns + "".join(rows))
    assert lisa.import_lisa(tmp_path / "source", tmp_path) == (6, 2)
    assert (data.load("lisa", tmp_path).test.images == torch.tensor([0, 0, 250]).reshape(3, 1, 1)).all()


def test_coloured_digits_have_the_shape_of_cifar10():
    colour = data.load("digits-colour")
    assert colour.shape == (3, 32, 32)
    assert torch.equal(colour.train.labels, data.load("digits").train.labels)
    assert (colour.train.images[:, 0] != colour.train.images[:, 1]).any()


def test_a_stride_takes_every_kth_image():
    split = data.Split(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10))
    assert split.every(4).labels.tolist() == [0, 4, 8]


def test_a_broken_official_file_is_refused(tmp_path):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte").write_bytes(b"not it")
    with pytest.raises(data.DataError, match="checksum"):
        data.load("mnist", tmp_path)


def test_official_files_are_downloaded_once(tmp_path, monkeypatch):
    """The download itself, with the four files served from memory and their real checksums where MNIST is at hand."""
    images = np.zeros(16 + 4, np.uint8).tobytes()
    asked = []

    def answer(url, timeout):
        asked.append(url)
        return io.BytesIO(gzip.compress(images))

    monkeypatch.setattr(files.urllib.request, "urlopen", answer)
    with pytest.raises(data.DataError, match="checksum"):  # what came is not MNIST
        data.load("mnist", tmp_path)
    assert asked == ["https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz"]
    assert (tmp_path / "mnist" / "train-images-idx3-ubyte").read_bytes() == images


def test_without_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    def refuse(url, timeout):
        raise OSError("no route")

    monkeypatch.setattr(files.urllib.request, "urlopen", refuse)
    with pytest.raises(data.DataError, match="--data-dir"):
        data.load("mnist", tmp_path)


def write(path, colour, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_folder_of_any_sizes_is_cut_by_name(tmp_path):
    for label, colour in {"cat": (200, 10, 10), "dog": (10, 200, 10)}.items():
        for number in range(40):
            write(tmp_path / label / f"{number}.png", colour, (20 + number, 30))
    folder = data.load("folder", tmp_path, size=32)
    assert folder.class_names == ("cat", "dog")
    assert folder.shape == (3, 32, 32)
    assert len(folder.train) + len(folder.validation) + len(folder.test) == 80
    again = data.load("folder", tmp_path, size=32)
    assert torch.equal(folder.train.images, again.train.images)
    assert folder.train.images[0, :, 0, 0].tolist() == [200, 10, 10]


def test_a_folder_with_its_own_split_keeps_it(tmp_path):
    for part, count in {"train": 3, "val": 2}.items():
        for number in range(count):
            write(tmp_path / part / "a" / f"{number}.png", (7, 7, 7))
    folder = data.load("folder", tmp_path, size=8)
    assert (len(folder.train), len(folder.validation), len(folder.test)) == (3, 2, 2)
    assert folder.shape == (1, 8, 8), "grey images stay one-channel"


def test_one_colour_image_makes_every_part_of_a_folder_colour(tmp_path):
    write(tmp_path / "train" / "a" / "0.png", (200, 10, 10))
    write(tmp_path / "val" / "a" / "0.png", (7, 7, 7))
    folder = data.load("folder", tmp_path, size=8)
    assert folder.train.images.shape == folder.validation.images.shape == (1, 3, 8, 8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "L", "RGB", "1"])
def test_a_folder_reads_images_as_the_service_does(mode, tmp_path):
    from arn_purify.service.core import codec

    levels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    if mode == "I;16":
        image = Image.fromarray(levels.astype(np.uint16) * 250)
    elif mode == "P":
        image = Image.fromarray(levels).convert("RGB").quantize(16)
        image.info["transparency"] = 3
    else:
        image = Image.fromarray(levels).convert(mode)
        if "A" in mode:
            image.putalpha(Image.fromarray(levels[::-1].copy()))
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        image.save(tmp_path / part / "a" / "0.png")
    found = data.load("folder", tmp_path, size=8).train.images[0]
    served = codec.open_image((tmp_path / "train" / "a" / "0.png").read_bytes(), 100).decode(len(found))
    assert torch.equal(found, torch.from_numpy(served[0].transpose(2, 0, 1).copy()))


@pytest.mark.parametrize("make", ["nothing", "empty", "text"])
def test_a_folder_without_images_is_refused(make, tmp_path):
    root = tmp_path / "root"
    if make != "nothing":
        (root / "class").mkdir(parents=True)
    if make == "text":
        (root / "class" / "notes.txt").write_text("no image")
    with pytest.raises(data.DataError, match="root"):
        data.load("folder", root)


def test_names_are_strict():
    with pytest.raises(data.DataError, match="no data set 'imagenet'"):
        data.load("imagenet")
    with pytest.raises(data.DataError, match="no split 'dev'"):
        data.load("digits").split("dev")
