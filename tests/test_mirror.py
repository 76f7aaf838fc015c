"""A folder followed from another host: what is sent, and what is there at every moment."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from clusters.mirror import Copy, Piece, Source

PIECE = 4 * 2**20
LARGE = 9 * 2**20


@pytest.fixture
def near(tmp_path: Path) -> Path:
    """The folder that changes."""
    (tmp_path / "near").mkdir()
    return tmp_path / "near"


@pytest.fixture
def far(tmp_path: Path) -> Path:
    """The folder that follows; nobody has made it yet."""
    return tmp_path / "far"


def send(source: Source, copy: Copy) -> list[str]:
    """One look's pieces, written down; their names."""
    pieces = source.news()
    for piece in pieces:
        copy.write(piece)
    return [piece.name for piece in pieces]


def send_all(source: Source, copy: Copy) -> None:
    while send(source, copy):
        pass


def replace(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name and gives it its own."""
    temporary = path.with_name(f"{path.name}.tmp-1")
    temporary.write_bytes(data)
    temporary.replace(path)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_new_files_come_with_their_folders(near: Path, far: Path) -> None:
    source, copy = Source(near), Copy(far)
    (near / "logs/deep").mkdir(parents=True)
    (near / "logs/deep/a.log").write_bytes(b"one")
    (near / "empty").touch()
    send_all(source, copy)
    assert contents(far) == {"logs/deep/a.log": b"one", "empty": b""}


def test_what_was_there_at_the_start_is_not_sent_but_what_comes_to_it_is(
    near: Path, far: Path
) -> None:
    (near / "job.json").write_bytes(b"{}")
    (near / "log").write_bytes(b"old")
    source, copy = Source(near), Copy(far)
    assert send(source, copy) == []
    far.mkdir()
    (far / "log").write_bytes(b"old")
    with (near / "log").open("ab") as log:
        log.write(b", new")
    send_all(source, copy)
    assert contents(far) == {"log": b"old, new"}


def test_a_file_that_grows_is_sent_as_it_grows(near: Path, far: Path) -> None:
    source, copy = Source(near), Copy(far)
    sent = []
    with (near / "log").open("ab") as log:
        for line in (b"one\n", b"two\n", b"three\n"):
            log.write(line)
            log.flush()
            pieces = source.news()
            sent += [(piece.offset, piece.data, piece.more) for piece in pieces]
            for piece in pieces:
                copy.write(piece)
    assert sent == [(0, b"one\n", False), (4, b"two\n", False), (8, b"three\n", False)]
    assert contents(far) == contents(near)


def test_nothing_new_sends_nothing(near: Path, far: Path) -> None:
    source, copy = Source(near), Copy(far)
    (near / "a").write_bytes(b"a")
    assert send(source, copy) == ["a"]
    assert send(source, copy) == []


@pytest.mark.parametrize("new", [b"newer and longer", b"equal", b"n", b""])
def test_a_file_that_is_replaced_is_sent_anew(near: Path, far: Path, new: bytes) -> None:
    source, copy = Source(near), Copy(far)
    replace(near / "result.json", b"older")
    send_all(source, copy)
    replace(near / "result.json", new)
    send_all(source, copy)
    assert contents(far) == {"result.json": new}


def test_a_file_that_is_replaced_twice_between_two_looks_is_sent_anew(
    near: Path, far: Path
) -> None:
    """The file system may give the third file the number that the first one had."""
    source, copy = Source(near), Copy(far)
    for turn in range(10):
        for length in (1, 2):
            numbers = list(range(100 * turn + 10 * length))
            replace(near / "result.json", json.dumps(numbers).encode())
        send_all(source, copy)
        assert json.loads((far / "result.json").read_bytes()) == numbers


def test_a_file_that_is_cut_short_is_sent_anew(near: Path, far: Path) -> None:
    source, copy = Source(near), Copy(far)
    (near / "log").write_bytes(b"long text")
    send_all(source, copy)
    (near / "log").write_bytes(b"short")
    send_all(source, copy)
    assert contents(far) == {"log": b"short"}


def test_a_large_file_appears_when_it_is_complete(near: Path, far: Path) -> None:
    source, copy = Source(near), Copy(far)
    data = random.Random(0).randbytes(LARGE)
    replace(near / "step-1.safetensors", data)
    sizes = []
    while pieces := source.news():
        assert not (far / "step-1.safetensors").exists()
        for piece in pieces:
            sizes.append(len(piece.data))
            copy.write(piece)
    assert sizes == [PIECE, PIECE, LARGE - 2 * PIECE]
    assert contents(far) == {"step-1.safetensors": data}


def test_a_new_large_file_leaves_the_old_one_whole_until_it_is_complete(
    near: Path, far: Path
) -> None:
    source, copy = Source(near), Copy(far)
    replace(near / "model", b"old")
    send_all(source, copy)
    replace(near / "model", bytes(LARGE))
    send(source, copy)
    assert (far / "model").read_bytes() == b"old"
    replace(near / "model", b"newest")  # while the large one is on its way
    send_all(source, copy)
    assert contents(far) == {"model": b"newest"}


def test_a_look_gives_a_few_megabytes_at_most_and_forgets_nothing(near: Path, far: Path) -> None:
    source, copy = Source(near), Copy(far)
    chance = random.Random(0)
    for number in range(5):
        replace(near / f"file-{number}", chance.randbytes(PIECE // 2 + number))
    while pieces := source.news():
        assert sum(len(piece.data) for piece in pieces) <= PIECE
        for piece in pieces:
            copy.write(piece)
    assert contents(far) == contents(near)


def test_temporary_names_are_not_sent(near: Path, far: Path) -> None:
    source, copy = Source(near), Copy(far)
    (near / "report.json.tmp-77").write_bytes(b"half")
    assert send(source, copy) == []


def test_only_complete_files_have_their_names(near: Path, far: Path) -> None:
    copy = Copy(far)
    copy.write(Piece(name="a", offset=0, data=b"half", more=True))
    assert [path.name for path in far.iterdir()] == [f"a.tmp-{os.getpid()}"]
    copy.write(Piece(name="a", offset=4, data=b", whole", more=False))
    assert contents(far) == {"a": b"half, whole"}


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "a/../../out", "link/out"])
def test_a_name_that_leads_out_of_the_folder_is_refused(far: Path, name: str) -> None:
    far.mkdir()
    (far / "link").symlink_to(far.parent)
    with pytest.raises(ValueError, match="is not below"):
        Copy(far).write(Piece(name=name, offset=0, data=b"x", more=False))
    assert not (far.parent / "out").exists()


def test_a_folder_that_is_deleted_meanwhile_sends_nothing_more(near: Path, far: Path) -> None:
    source, copy = Source(near), Copy(far)
    (near / "logs").mkdir()
    (near / "logs/a").write_bytes(b"a")
    send_all(source, copy)
    shutil.rmtree(near)
    assert send(source, copy) == []
    assert contents(far) == {"logs/a": b"a"}


def test_a_file_that_is_gone_and_back_is_sent_anew(near: Path, far: Path) -> None:
    source, copy = Source(near), Copy(far)
    (near / "a").write_bytes(b"first")
    send_all(source, copy)
    (near / "a").unlink()
    assert send(source, copy) == []
    (near / "a").write_bytes(b"second time")
    send_all(source, copy)
    assert contents(far) == {"a": b"second time"}
