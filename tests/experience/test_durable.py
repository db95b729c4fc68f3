import os

import pytest

from experience.durable import fsync_folder, make_folder, write_atomic


def test_writes_and_replaces(tmp_path):
    write_atomic(tmp_path / "a", b"old")
    write_atomic(tmp_path / "a", memoryview(b"new!"))
    assert (tmp_path / "a").read_bytes() == b"new!"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_fsyncs_the_file_before_the_rename_and_the_folder_after(tmp_path, killed_at):
    with killed_at(99) as durable:
        write_atomic(tmp_path / "a", b"x")
    assert durable.calls == ["open", "write", "fsync", "replace", "open", "fsync"]
    with killed_at(99) as volatile:
        write_atomic(tmp_path / "a", b"x", sync=False)
    assert volatile.calls == ["open", "write", "replace"]


@pytest.mark.parametrize("k", range(6))
def test_killed_at_any_call_leaves_the_old_file_or_the_whole_new_one(tmp_path, killed_at, k):
    write_atomic(tmp_path / "a", b"old")
    with killed_at(k) as kill:
        write_atomic(tmp_path / "a", b"new")
    assert kill.happened
    assert (tmp_path / "a").read_bytes() == (b"old" if k < 4 else b"new")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_writes_everything_when_the_disk_takes_a_byte_at_a_time(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, bytes(data[:1])))
    write_atomic(tmp_path / "a", b"12345")
    assert (tmp_path / "a").read_bytes() == b"12345"


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
def test_an_error_is_raised_once_and_leaves_nothing_aside(tmp_path, monkeypatch, name):
    write_atomic(tmp_path / "a", b"old")
    calls = []

    def fail(*args):
        calls.append(name)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "a", b"new")
    assert calls == [name]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_makes_missing_folders_and_flushes_each_parent(tmp_path, killed_at):
    with killed_at(99, names=("mkdir", "fsync")) as first:
        make_folder(tmp_path / "a" / "b")
    assert first.calls == ["mkdir", "mkdir", "fsync", "mkdir", "fsync"]
    with killed_at(99, names=("mkdir", "fsync")) as second:
        make_folder(tmp_path / "a" / "b")
    assert second.calls == ["mkdir"]


def test_a_folder_whose_fsync_failed_is_not_taken_for_durable_later(tmp_path, monkeypatch):
    calls = []

    def fail_once(file, real=os.fsync):
        calls.append(file)
        if len(calls) == 1:
            raise OSError(5, "injected")
        real(file)

    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(OSError, match="injected"):
        make_folder(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    make_folder(tmp_path / "a")
    assert len(calls) == 2


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "a")


def test_the_fsync_of_a_folder_takes_folders_only(tmp_path):
    write_atomic(tmp_path / "a", b"x", sync=False)
    fsync_folder(tmp_path)
    with pytest.raises(NotADirectoryError):
        fsync_folder(tmp_path / "a")
