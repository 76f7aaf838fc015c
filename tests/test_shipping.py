"""What a Ray cluster's nodes are sent: complete enough to train, and small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clusters.base import ClusterError
from clusters.shipping import size_of, stage, working_dir

NAMES = ["clusters", "strategies", "pynvml", "safetensors"]


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A user's folder: 30 bytes to send, and what is left behind."""
    folder = tmp_path / "mine"
    (folder / "data").mkdir(parents=True)
    (folder / "train.py").write_bytes(b"x" * 10)
    (folder / "data/a.bin").write_bytes(b"x" * 20)
    for unwanted in (".git/objects/a", ".venv/lib/b", "runs/1/log", "__pycache__/train.pyc"):
        path = folder / unwanted
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 100)
    (folder / "old.pyc").write_bytes(b"x" * 100)
    return folder


def test_a_node_gets_our_code_and_what_it_imports(tmp_path: Path) -> None:
    shipment = stage(tmp_path)
    assert [path.name for path in shipment.modules] == NAMES
    assert {"clusters/ray_outpost.py", "strategies/worker.py"} <= names(tmp_path)
    assert not [name for name in names(tmp_path) if "__pycache__" in name]
    assert shipment.bytes == size_of(tmp_path)


def test_what_is_sent_is_told_with_its_size(tmp_path: Path) -> None:
    shipment = stage(tmp_path)
    size = f"{shipment.bytes / 1e6:.1f} MB"
    assert shipment.note == f"each node is sent {size} once: {', '.join(NAMES)}"


def test_what_is_sent_is_enough_to_read_the_data_and_a_worker(tmp_path: Path) -> None:
    stage(tmp_path)
    code = (
        "import strategies, strategies.worker, clusters.ray_outpost, pynvml, safetensors\n"
        "from strategies.mnist.data import check\n"
        "print(strategies.__file__, safetensors.__file__, check(None))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    where = [f"{tmp_path}/strategies/__init__.py", f"{tmp_path}/safetensors/__init__.py"]
    assert done.stdout.split() == [*where, "60000"]


def test_the_size_leaves_out_what_is_not_sent(script: Path) -> None:
    assert size_of(script) == 30
    assert size_of(script, ["*.bin"]) == 10
    assert size_of(script, ["data"]) == 10
    assert size_of(script, ["data/"]) == 10
    assert size_of(script, ["data/a.*"]) == 10


def test_a_link_to_nowhere_has_no_size(script: Path) -> None:
    (script / "dangling").symlink_to("nowhere")
    assert size_of(script) == 30


def test_a_scripts_folder_is_rays_working_dir_without_what_is_excluded(script: Path) -> None:
    environment = working_dir(script, ["*.bin"])
    assert environment["working_dir"] == str(script)
    excludes = environment["excludes"]
    assert isinstance(excludes, list)
    assert {"*.bin", ".git", ".venv", "runs", "__pycache__"} <= set(excludes)


def test_a_folder_that_ray_would_not_take_is_refused_with_its_size(script: Path) -> None:
    with (script / "data/large").open("wb") as file:
        file.truncate(600 * 10**6)  # a hole: it takes no room on the disk
    with pytest.raises(ClusterError) as caught:
        working_dir(script, [])
    assert str(caught.value) == (
        f"the script's folder {script} has 600 MB, and Ray sends 524 MB at most; list what the "
        "script does not need under `exclude` in the cluster file"
    )
    assert working_dir(script, ["large"])
