"""Work files keep what was put into them, whatever happened to what stands beside it."""

import errno
import hashlib
import os
import struct
from pathlib import Path

import pytest

from experience import work_file
from experience.work_file import SLOTS, WorkFile, WorkFiles

PARTS = [bytes([65 + slot]) * (10 + 7 * slot) for slot in range(4)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "work"


def keep(work, slot, data):
    work.keep(slot, data, hashlib.sha256(data).digest())


def filled(path):
    work = WorkFile(path)
    for slot, data in enumerate(PARTS):
        keep(work, slot, data)
    work.close()


def kept(path, slots=range(SLOTS)):
    """What a process that begins anew finds."""
    work = WorkFile(path)
    found = {slot: data for slot in slots if (data := work.read(slot)) is not None}
    work.close()
    return found


def test_each_slot_keeps_its_own(path):
    filled(path)
    assert kept(path) == dict(enumerate(PARTS))
    assert kept(path, [2]) == {2: PARTS[2]}


def test_the_last_of_a_slot_counts_and_what_is_dropped_is_gone(path):
    filled(path)
    work = WorkFile(path)
    keep(work, 1, b"again")
    assert work.read(1) == b"again"
    work.drop(2)
    work.drop(9)
    assert work.read(2) is None
    work.close()
    work.close()
    assert kept(path) == {0: PARTS[0], 1: b"again", 3: PARTS[3]}


def test_nothing_is_made_before_there_is_something_to_keep(path):
    assert kept(path) == {}
    assert not path.exists()


def test_every_length_cut(path):
    """As a kill in the middle of writing leaves it; what is kept afterwards stands in its place."""
    filled(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        found = kept(path)
        assert found == {slot: data for slot, data in enumerate(PARTS) if slot in found}
        assert sorted(found) == list(range(len(found)))
        work = WorkFile(path)
        keep(work, 7, b"x")
        work.close()
        assert kept(path) == found | {7: b"x"}


def test_every_byte_flipped(path):
    filled(path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        assert set(kept(path).values()) <= set(PARTS)


def test_a_copy_that_cannot_be_read_just_now_is_none(path, monkeypatch):
    filled(path)
    work = WorkFile(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", failing_once(os.pread))
        assert work.read(1) is None
    assert work.read(1) == PARTS[1]
    work.close()


def test_a_copy_that_cannot_be_kept_is_none(tmp_path):
    work = WorkFile(tmp_path / "missing" / "work")
    keep(work, 0, b"data")
    assert work.read(0) is None
    work.drop(0)
    work.close()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    work = WorkFile(tmp_path / "link")
    keep(work, 0, b"data")
    assert work.read(0) is None
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "elsewhere").write_bytes(b"somebody's")
    work = WorkFile(tmp_path / "link")
    keep(work, 0, b"data")
    work.close()
    assert (tmp_path / "elsewhere").read_bytes() == b"somebody's"


def test_those_in_use_are_opened_once(path):
    with WorkFiles() as works:
        keep(works.at(str(path)), 0, b"data")
        assert works.at(str(path)).read(0) == b"data"
        opened = works.at(str(path))
    assert opened.read(0) is None


def test_what_a_torn_copy_holds_is_never_taken_for_another_one(path, tmp_path):
    other = tmp_path / "other" / path.name  # as if the client had known it
    other.parent.mkdir()
    work = WorkFile(other)
    keep(work, 3, b"forged")
    work.close()
    torn = WorkFile(path)
    keep(torn, 0, bytes(64) + other.read_bytes() + bytes(99))
    torn.close()
    path.write_bytes(path.read_bytes()[:-1])
    again = WorkFile(path)
    keep(again, 1, b"x" * 32)  # ends where the forged one begins
    again.close()
    assert kept(path) == {1: b"x" * 32}


def test_copies_that_could_not_be_opened_once_are_not_written_over(path, monkeypatch):
    filled(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing_once(os.open))
        work = WorkFile(path)
        keep(work, 7, b"new")
        assert work.read(7) is None
        work.close()
    assert kept(path) == dict(enumerate(PARTS))


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def failing_once(function):
    left = iter([OSError(errno.EMFILE, "too many open files")])

    def call(*arguments):
        for error in left:
            raise error
        return function(*arguments)

    return call


def test_what_stands_within_a_client_s_bytes_is_no_copy(path, tmp_path):
    """Also where a damaged size makes it look as if one began there."""
    forged = tmp_path / "other"
    filled(forged)
    work = WorkFile(path)
    keep(work, 9, bytes(64) + forged.read_bytes())
    work.close()
    whole = bytearray(path.read_bytes())
    size = len(whole) - work_file._DIGEST_BYTES - 64 - forged.stat().st_size
    struct.pack_into("<Q", whole, size - 8, 64 - work_file._DIGEST_BYTES)
    path.write_bytes(whole)
    assert kept(path) == {}


@pytest.mark.parametrize("function", ["fstat", "pread", "ftruncate"])
def test_copies_that_could_not_be_looked_through_once_are_not_written_over(path, monkeypatch, function):
    filled(path)
    with path.open("ab") as file:
        file.write(b"torn")
    before = open_files()
    with monkeypatch.context() as patched:
        patched.setattr(os, function, failing_once(getattr(os, function)))
        work = WorkFile(path)
        keep(work, 7, b"new")
        assert work.read(7) is None
        work.close()
    assert open_files() == before
    assert kept(path) == dict(enumerate(PARTS))


@pytest.mark.parametrize("cut_bytes", [50, 73])  # within the last copy's bytes, and within what stands before
def test_a_file_that_is_cut_while_it_is_looked_through(path, monkeypatch, cut_bytes):
    """As the decoder of a daemon that was killed may do to its successor's."""
    filled(path)
    whole, fstat = path.read_bytes(), os.fstat

    def cutting(file):
        status = fstat(file)
        os.truncate(path, len(whole) - cut_bytes)
        return status

    monkeypatch.setattr(os, "fstat", cutting)
    work = WorkFile(path)
    assert [work.read(slot) for slot in range(4)] == [*PARTS[:3], None]
    keep(work, 7, b"new")
    work.close()
    monkeypatch.undo()
    assert kept(path) == {0: PARTS[0], 1: PARTS[1], 2: PARTS[2], 7: b"new"}


def test_an_error_when_it_is_closed_is_no_fault_of_a_file(path, monkeypatch):
    filled(path)
    closed, close = [], os.close

    def failing(file):
        closed.append(file)
        close(file)
        raise OSError(errno.ENOSPC, "found out late")

    monkeypatch.setattr(os, "close", failing)
    with WorkFiles() as works:
        assert works.at(str(path)).read(0) == PARTS[0]
        works.at(f"{path}2").keep(1, b"x", hashlib.sha256(b"x").digest())
    monkeypatch.undo()
    assert len(closed) == len(set(closed)) == 2
