import os

import pytest

from experience.durable import fsync_file, fsync_folder, make_folder, write_atomic


class Killed(BaseException):
    """Stands for a SIGKILL: nothing in the code under test may handle it as an error."""


def kill_at(monkeypatch, k, names=("open", "write", "fsync", "replace", "unlink", "mkdir")):
    """From the k-th of these calls on, each raises; gives the list of calls that were made."""
    calls = []

    def patched(name, real):
        def call(*args, **kwargs):
            calls.append(name)
            if len(calls) > k:
                raise Killed(name)
            return real(*args, **kwargs)

        return call

    for name in names:
        monkeypatch.setattr(os, name, patched(name, getattr(os, name)))
    return calls


def test_writes_and_replaces(tmp_path):
    write_atomic(tmp_path / "a", b"old")
    write_atomic(tmp_path / "a", memoryview(b"new!"))
    assert (tmp_path / "a").read_bytes() == b"new!"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_fsyncs_the_file_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls = kill_at(monkeypatch, 99)
    write_atomic(tmp_path / "a", b"x")
    assert calls == ["open", "write", "fsync", "replace", "open", "fsync"]
    calls.clear()
    write_atomic(tmp_path / "a", b"x", sync=False)
    assert calls == ["open", "write", "replace"]


@pytest.mark.parametrize("k", range(6))
def test_killed_at_any_call_leaves_the_old_file_or_the_whole_new_one(tmp_path, monkeypatch, k):
    write_atomic(tmp_path / "a", b"old")
    with monkeypatch.context() as patch:
        kill_at(patch, k)
        with pytest.raises(Killed):
            write_atomic(tmp_path / "a", b"new")
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


def test_makes_missing_folders_and_flushes_each_parent(tmp_path, monkeypatch):
    calls = kill_at(monkeypatch, 99, names=("mkdir", "fsync"))
    make_folder(tmp_path / "a" / "b")
    assert calls == ["mkdir", "mkdir", "fsync", "mkdir", "fsync"]
    calls.clear()
    make_folder(tmp_path / "a" / "b")
    assert calls == ["mkdir"]


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "a")


def test_fsync_takes_files_and_folders(tmp_path):
    write_atomic(tmp_path / "a", b"x", sync=False)
    fsync_file(tmp_path / "a")
    fsync_folder(tmp_path)
    with pytest.raises(NotADirectoryError):
        fsync_folder(tmp_path / "a")
