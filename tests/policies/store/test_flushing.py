"""Files of a version: all flushed at once, and no failure is passed over."""

import os
import threading
from pathlib import Path

import pytest

from policies.flushing import close_later, write_new

NAMES = ("model", "optimizer", "ledger", "manifest", "delta")


def files_in(folder):
    return {f"{folder}/{name}": name.encode() * 100 for name in NAMES}


def watch(patch, before=lambda path: None):
    """Note what is flushed; ``before`` may fail, or wait."""
    flushed, real = [], os.fsync

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append(path.name)
        before(path)
        real(descriptor)

    patch.setattr(os, "fsync", fsync)
    return flushed


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_every_file_and_the_folder_are_flushed_at_once(tmp_path, monkeypatch):
    together = threading.Barrier(len(NAMES) + 1, timeout=10.0)
    flushed = watch(monkeypatch, lambda _: together.wait())
    write_new(files_in(tmp_path), folder=str(tmp_path))
    assert sorted(flushed) == sorted([*NAMES, tmp_path.name])
    assert {f"{tmp_path}/{path.name}": path.read_bytes() for path in tmp_path.iterdir()} == files_in(tmp_path)


def test_more_files_than_threads_are_flushed_too(tmp_path, monkeypatch):
    flushed = watch(monkeypatch)
    write_new({f"{tmp_path}/{i}": b"x" for i in range(40)}, folder=str(tmp_path))
    assert len(flushed) == 41


@pytest.mark.parametrize("failing", [*NAMES, "."])
def test_any_failure_is_raised_when_all_were_tried(tmp_path, monkeypatch, failing):
    write_new({f"{tmp_path}/before": b""}, folder=str(tmp_path))  # the threads are there now
    before, target = open_descriptors(), tmp_path / failing

    def fail(path):
        if path == target:
            raise OSError(5, "injected")

    flushed = watch(monkeypatch, fail)
    with pytest.raises(OSError, match="injected"):
        write_new(files_in(tmp_path), folder=str(tmp_path))
    assert sorted(flushed) == sorted([*NAMES, tmp_path.name])
    assert open_descriptors() == before


def test_a_short_write_goes_on_where_it_ended(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real(file, bytes(data)[:7]))
    write_new(files_in(tmp_path), folder=str(tmp_path))
    assert {f"{tmp_path}/{path.name}": path.read_bytes() for path in tmp_path.iterdir()} == files_in(tmp_path)


def test_nothing_that_is_there_is_overwritten(tmp_path):
    (tmp_path / "ledger").write_bytes(b"theirs")
    (tmp_path / "delta").symlink_to(tmp_path / "elsewhere")
    for name in ("ledger", "delta"):
        with pytest.raises(FileExistsError):
            write_new({f"{tmp_path}/{name}": b"ours"}, folder=str(tmp_path))
    assert (tmp_path / "ledger").read_bytes() == b"theirs"
    assert not (tmp_path / "elsewhere").exists()


def test_what_nobody_waits_for_is_closed_all_the_same(tmp_path, monkeypatch):
    closed, done, real = [], threading.Event(), os.close

    def close(descriptor):
        real(descriptor)
        closed.append(descriptor)
        done.set()

    (tmp_path / "a").write_bytes(b"x")
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    monkeypatch.setattr(os, "close", close)
    close_later(descriptor)
    assert done.wait(10.0)
    assert closed == [descriptor]
