"""The packaged MNIST, folders of the user's, and what is said of bad files."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from strategies.mnist.data import FILES, PACKAGED, DataError, Mnist, check, load

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES.values()
IMAGES, LABELS = 0x803, 0x801
TRAIN, TEST = 5, 3  # samples of the small data set

MD5 = {
    TRAIN_IMAGES: "6bbc9ace898e44ae57da46a324031adb",
    TRAIN_LABELS: "a25bea736e30d166cdddb491f175f624",
    TEST_IMAGES: "2646ac647ad5339dbf082846283269ea",
    TEST_LABELS: "27ae3e4e09519cfbb04c329615203637",
}


def idx(magic: int, *shape: int) -> bytes:
    """An IDX file whose elements are 0, 1, ... 9, 0, 1, ..."""
    body = np.arange(np.prod(shape)) % 10
    return struct.pack(f">{1 + len(shape)}I", magic, *shape) + body.astype(np.uint8).tobytes()


SMALL = {
    TRAIN_IMAGES: idx(IMAGES, TRAIN, 28, 28),
    TRAIN_LABELS: idx(LABELS, TRAIN),
    TEST_IMAGES: idx(IMAGES, TEST, 28, 28),
    TEST_LABELS: idx(LABELS, TEST),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small data set of raw files."""
    for name, content in SMALL.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture(scope="module")
def packaged() -> Mnist:
    return load()


@pytest.fixture(params=[load, check])
def read(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    """Both ways to read a folder: they should find the same faults."""
    function: Callable[[Path], object] = request.param
    return function


@pytest.mark.parametrize("name", MD5)
def test_packaged_file_is_the_original_one(name: str) -> None:
    content = gzip.decompress((PACKAGED / f"{name}.gz").read_bytes())
    assert hashlib.md5(content).hexdigest() == MD5[name]


def test_packaged_mnist_has_60000_training_and_10000_test_images(packaged: Mnist) -> None:
    assert packaged.train.images.shape == (60_000, 28, 28)
    assert packaged.test.images.shape == (10_000, 28, 28)


def test_packaged_labels_are_in_the_files_order(packaged: Mnist) -> None:
    assert packaged.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert packaged.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_nothing_is_held_out_unless_asked_for(packaged: Mnist) -> None:
    assert len(packaged.validation) == 0


def test_check_trusts_the_packaged_files_to_hold_as_many_samples(packaged: Mnist) -> None:
    assert check(None) == len(packaged.train)


def test_check_returns_the_number_of_training_samples_of_a_folder(folder: Path) -> None:
    assert check(folder) == TRAIN


def test_images_and_labels_are_those_of_the_files(folder: Path) -> None:
    train = load(folder).train
    assert train.images.tobytes() == SMALL[TRAIN_IMAGES][16:]
    assert train.labels.tobytes() == SMALL[TRAIN_LABELS][8:]


@pytest.mark.parametrize("name", FILES.values())
def test_a_gzipped_file_loads_like_the_raw_one(folder: Path, name: str) -> None:
    raw = load(folder)
    (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    (folder / name).unlink()
    zipped = load(folder)
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(raw, split).images, getattr(zipped, split).images)
        np.testing.assert_array_equal(getattr(raw, split).labels, getattr(zipped, split).labels)


def test_validation_takes_the_end_of_the_training_samples(folder: Path) -> None:
    data = load(folder, validation=0.4)
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.validation.labels.tolist() == [3, 4]
    assert data.validation.images.tobytes() == SMALL[TRAIN_IMAGES][-2 * 28 * 28 :]


BAD_FILES = {
    "no header": (TRAIN_IMAGES, b"", "has 0 bytes, too few for the header of 16"),
    "short header": (TEST_LABELS, idx(LABELS, 3)[:7], "has 7 bytes, too few for the header of 8"),
    "labels for images": (TRAIN_IMAGES, idx(LABELS, 28), "does not hold IDX images"),
    "images for labels": (TRAIN_LABELS, SMALL[TRAIN_IMAGES], "does not hold IDX labels"),
    "other pixels": (TEST_IMAGES, idx(IMAGES, 3, 28, 32), "28x32 pixels, expected 28x28"),
    "truncated": (TRAIN_LABELS, SMALL[TRAIN_LABELS][:-1], "has 12 bytes; its header promises 5"),
    "too long": (TEST_LABELS, SMALL[TEST_LABELS] + b"\0", "has 12 bytes; its header promises 3"),
    "bad label": (
        TRAIN_LABELS,
        SMALL[TRAIN_LABELS][:-1] + b"\x0a",
        "the label 10, expected 0 to 9",
    ),
    "more labels": (TRAIN_LABELS, idx(LABELS, 6), "has 5 images and"),
    "no images": (TEST_IMAGES, idx(IMAGES, 0, 28, 28), "holds no images"),
    "no labels": (TRAIN_LABELS, idx(LABELS, 0), "holds no labels"),
    "raw in .gz": (f"{TRAIN_LABELS}.gz", SMALL[TRAIN_LABELS], "is not a whole gzip file"),
    "half a .gz": (f"{TEST_IMAGES}.gz", gzip.compress(SMALL[TEST_IMAGES])[:40], "not a whole gzip"),
    "bad deflate": (
        f"{TEST_LABELS}.gz",
        gzip.compress(b"")[:10] + b"\xff" * 20,
        "not a whole gzip",
    ),
}


@pytest.mark.parametrize(("name", "content", "fault"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_named_with_its_fault(
    folder: Path, read: Callable[[Path], object], name: str, content: bytes, fault: str
) -> None:
    (folder / name.removesuffix(".gz")).unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read(folder)
    assert str(folder / name) in str(error.value)
    assert fault in str(error.value)


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    path = folder / TEST_LABELS
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a file whose first page is never mapped
    with pytest.raises(DataError, match=f"{path} cannot be read: Input/output error"):
        load(folder)


def test_a_missing_folder_is_named(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=f"{tmp_path / 'none'} is not a folder"):
        read(tmp_path / "none")


@pytest.mark.parametrize("name", FILES.values())
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{folder} has neither {name} nor {name}.gz"):
        load(folder)
