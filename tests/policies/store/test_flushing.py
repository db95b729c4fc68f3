"""Files of a version: all flushed at once, and no failure is passed over."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import pytest

from policies import flushing
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


@pytest.mark.parametrize("call", ["open", "write"])
def test_what_was_opened_before_an_error_is_closed(tmp_path, monkeypatch, call):
    write_new({f"{tmp_path}/before": b""}, folder=str(tmp_path))  # the threads are there now
    before, real, calls = open_descriptors(), getattr(os, call), []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise OSError(28, "injected")
        return real(*arguments)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match="injected"):
        write_new(files_in(tmp_path), folder=str(tmp_path))
    assert open_descriptors() == before


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


def test_an_interrupted_caller_closes_nothing_that_a_thread_has_yet_to_flush(tmp_path, monkeypatch):
    write_new({f"{tmp_path}/before": b""}, folder=str(tmp_path))
    before, go_on, real, stale = open_descriptors(), threading.Event(), os.fsync, []

    class Interrupted(SimpleQueue):
        def get(self):
            raise KeyboardInterrupt

    def fsync(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if threading.current_thread() is not threading.main_thread():
            assert go_on.wait(10.0)
            with contextlib.suppress(OSError):
                stale.extend([name] * (Path(f"/proc/self/fd/{descriptor}").readlink().name != name))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(flushing, "_Outcomes", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_new(files_in(tmp_path), folder=str(tmp_path))
    others = [os.open("/dev/null", os.O_RDONLY) for _ in range(len(NAMES) + 1)]
    go_on.set()
    deadline = time.monotonic() + 10.0
    while open_descriptors() > before + len(others) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert stale == []
    assert open_descriptors() == before + len(others)
    for descriptor in others:
        os.close(descriptor)  # nobody else did


def test_without_another_thread_the_caller_does_all_of_it(tmp_path, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    flushed, before = watch(monkeypatch), open_descriptors()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    flushing._waiting.cache_clear()
    try:
        write_new(files_in(tmp_path), folder=str(tmp_path))
        close_later(os.open(tmp_path, os.O_RDONLY))
    finally:
        flushing._waiting.cache_clear()
    assert sorted(flushed) == sorted([*NAMES, tmp_path.name])
    assert open_descriptors() == before


def test_a_child_flushes_with_threads_of_its_own(tmp_path):
    code = (
        "import os, sys; from policies.flushing import write_new; at = sys.argv[1]; "
        "write_new({at + '/parent': b'x', at + '/too': b'x'}, folder=at); child = os.fork(); "
        "child or (write_new({at + '/child': b'x', at + '/two': b'x'}, folder=at), os._exit(0)); "
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, tmp_path]
    subprocess.run(command, check=True, timeout=15)
    assert {path.name for path in tmp_path.iterdir()} == {"parent", "too", "child", "two"}


def test_a_hint_that_the_file_system_does_not_take_is_no_failure(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    write_new(files_in(tmp_path), folder=str(tmp_path))
    assert len(list(tmp_path.iterdir())) == len(NAMES)
