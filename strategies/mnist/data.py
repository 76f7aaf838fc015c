"""MNIST from four IDX files: the package's own, or those of a folder that the user names.

The format (Y. LeCun, "The MNIST database"): two zero bytes, the element type (8: unsigned byte),
the number of dimensions, each dimension as a big-endian 32-bit integer, then the elements.
numpy is imported on use: the launching process checks files without it.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGED = Path(__file__).parent / "idx"
FILES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}
CLASSES = 10
SIDE = 28
_MAGIC = {"images": 0x00000803, "labels": 0x00000801}


class DataError(Exception):
    """A data file that is missing or not what it should be; the text names it and says why."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """``images``: uint8 [n, 28, 28], 0 to 255; ``labels``: uint8 [n], 0 to 9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, low: int, high: int) -> Split:
        return Split(images=self.images[low:high], labels=self.labels[low:high])


@dataclass(frozen=True, kw_only=True)
class Mnist:
    """``validation`` is the end of the training files, held out; it is empty if none is."""

    train: Split
    validation: Split
    test: Split


@dataclass(frozen=True, kw_only=True)
class Idx:
    """One file's content: ``shape`` as its header says, ``data`` with the header before it."""

    shape: tuple[int, ...]
    data: bytes

    def array(self) -> NDArray[np.uint8]:
        import numpy as np

        header = len(self.data) - prod(self.shape)
        return np.frombuffer(self.data, dtype=np.uint8, offset=header).reshape(self.shape)


def held_out(samples: int, validation: float) -> int:
    """How many of ``samples`` training samples are held out, from their end."""
    return round(samples * validation)


def load(folder: Path | None = None, validation: float = 0.0) -> Mnist:
    """Reads the data set; the last ``validation`` share of the training samples is held out.

    ``folder`` is None for the MNIST inside the package. Raises DataError.
    """
    files = find_files(folder or PACKAGED)
    train = _split(files, "train")
    kept = len(train) - held_out(len(train), validation)
    return Mnist(
        train=train.part(0, kept),
        validation=train.part(kept, len(train)),
        test=_split(files, "test"),
    )


def check(folder: Path | None) -> int:
    """Reads everything in ``folder`` and returns its number of training samples.

    The packaged files (None) are trusted: their sums are checked when the package is built, and
    their headers and lengths when a worker loads them. Raises DataError.
    """
    if folder is None:
        return 60_000
    files = find_files(folder)
    _read_pair(files, "test")
    images, _ = _read_pair(files, "train")
    return images.shape[0]


def find_files(folder: Path) -> dict[tuple[str, str], Path]:
    """The four files of ``folder``, raw or gzipped, keyed by split and content.

    Raises DataError for a folder or a file that is missing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; it should hold the four IDX files of MNIST")
    found = {}
    for key, name in FILES.items():
        paths = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not paths:
            raise DataError(f"{folder} has neither {name} nor {name}.gz")
        found[key] = paths[0]
    return found


def _split(files: dict[tuple[str, str], Path], split: str) -> Split:
    images, labels = _read_pair(files, split)
    return Split(images=images.array(), labels=labels.array())


def _read_pair(files: dict[tuple[str, str], Path], split: str) -> tuple[Idx, Idx]:
    images_path, labels_path = files[split, "images"], files[split, "labels"]
    images, labels = _read(images_path, "images"), _read(labels_path, "labels")
    if images.shape[0] != labels.shape[0]:
        raise DataError(
            f"{images_path} has {images.shape[0]} images and {labels_path} has "
            f"{labels.shape[0]} labels; they should be as many"
        )
    return images, labels


def _read(path: Path, content: str) -> Idx:
    dimensions = 3 if content == "images" else 1
    header = 4 + 4 * dimensions
    data = _bytes(path)
    if len(data) < header:
        raise DataError(f"{path} has {len(data)} bytes, too few for the header of {header} bytes")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", data[:header])
    if magic != _MAGIC[content]:
        raise DataError(
            f"{path} does not hold IDX {content}: it begins with {magic:#010x}, "
            f"expected {_MAGIC[content]:#010x}"
        )
    if content == "images" and shape[1:] != [SIDE, SIDE]:
        raise DataError(
            f"{path} holds images of {shape[1]}x{shape[2]} pixels, expected {SIDE}x{SIDE}"
        )
    expected = header + prod(shape)
    if len(data) != expected:
        raise DataError(
            f"{path} has {len(data)} bytes; its header promises {shape[0]} {content}, "
            f"which take {expected}"
        )
    if shape[0] == 0:
        raise DataError(f"{path} holds no {content}")
    if content == "labels" and max(data[header:]) >= CLASSES:
        raise DataError(f"{path} holds the label {max(data[header:])}, expected 0 to {CLASSES - 1}")
    return Idx(shape=tuple(shape), data=data)


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
