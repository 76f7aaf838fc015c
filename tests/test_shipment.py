"""What is sent to a cluster's nodes."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.shipment import Package, collect, describe, pack
from launcher.submit import NEEDS

ROOT = Path(__file__).parent.parent


def names(package: Package) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(package.data)).namelist())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's: a script, a module, what nobody wants to send, and a name that we have too."""
    for name in ("train.py", "lib/model.py", ".git/HEAD", "runs/x/report.json", "data/big.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher/cli.py").write_text("theirs")
    return tmp_path


def test_the_launcher_goes_with_its_data_and_without_its_caches() -> None:
    sent = names(pack(collect(None, ())))
    assert {"launcher/cli.py", "strategies/worker.py", "clusters/guard.py"} <= sent
    assert any(name.endswith("train-images-idx3-ubyte.gz") for name in sent)
    assert not [name for name in sent if "__pycache__" in name]


def test_a_users_folder_goes_beside_it(folder: Path) -> None:
    items = collect(folder, ("data", "lib/m*"))
    package = pack(items)
    sent = names(package)
    assert {"train.py", "launcher/cli.py"} <= sent
    assert not sent & {"lib/model.py", ".git/HEAD", "runs/x/report.json", "data/big.bin"}
    assert zipfile.ZipFile(io.BytesIO(package.data)).read("launcher/cli.py") != b"theirs"
    assert describe(items, package, folder) == (
        f"sends {len(package.data) / 1e6:.1f} MB: launcher, strategies, clusters, "
        f"1 file of {folder}"
    )


def test_the_same_files_make_the_same_package(folder: Path) -> None:
    before = pack(collect(folder, ()))
    os.utime(folder / "train.py", (1, 1))
    assert pack(collect(folder, ())) == before
    (folder / "train.py").write_text("changed")
    assert pack(collect(folder, ())).name != before.name


@pytest.mark.parametrize("most", [1000, 100_000], ids=["at a glance", "when compressed"])
def test_too_much_is_refused_with_the_largest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr("launcher.shipment.MOST_BYTES", most)
    (folder / "data/big.bin").write_bytes(bytes(900_000))
    with pytest.raises(UserError) as caught:
        pack(collect(folder, ("*.gz",)))
    assert "the largest: strategies/ (" in str(caught.value)
    assert "data/ (0.9 MB)" in str(caught.value)
    assert "--exclude PATTERN" in str(caught.value)


def test_what_is_no_folder_or_cannot_be_read_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="--working-dir nowhere: is not a folder"):
        collect(Path("nowhere"), ())
    items = collect(folder, ())
    (folder / "train.py").unlink()
    with pytest.raises(UserError, match=r"train\.py: cannot be sent: No such file"):
        pack(items)


def test_what_ray_installs_is_what_the_launcher_needs() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    listed = project.partition("\ndependencies = [")[2].partition("]")[0]
    assert sorted(NEEDS, key=str.lower) == [word.strip(' ",') for word in listed.split("\n")[1:-1]]
