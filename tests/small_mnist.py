"""A small data set in MNIST's format, cut from the packaged one."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

from strategies.mnist.data import FILES, PACKAGED


def write_small_mnist(folder: Path, train: int, test: int) -> Path:
    """The first ``train`` and ``test`` samples as raw IDX files in ``folder``."""
    folder.mkdir()
    for (split, content), name in FILES.items():
        count = train if split == "train" else test
        data = gzip.decompress((PACKAGED / f"{name}.gz").read_bytes())
        header, each = (16, 784) if content == "images" else (8, 1)
        new_header = data[:4] + struct.pack(">I", count) + data[8:header]
        (folder / name).write_bytes(new_header + data[header : header + count * each])
    return folder
