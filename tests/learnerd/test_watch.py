"""The watch dies in every way, and its folder goes: it comes back, and never stops the daemon."""

import shutil
import threading
import time

import pytest

from learnerd import watch
from learnerd.watch import SpoolWatch


@pytest.fixture
def wake():
    return threading.Event()


@pytest.fixture
def spool_watch(tmp_path, wake):
    (tmp_path / "in").mkdir()
    spool_watch = SpoolWatch(tmp_path, wake)
    spool_watch.start()
    yield spool_watch
    spool_watch.stop()


def arrives(folder, name, spool_watch, wake):
    """Whether an event tells of a file that is renamed into place."""
    wake.clear()
    (folder / "in" / f".tmp-{name}").write_text("x")
    (folder / "in" / f".tmp-{name}").rename(folder / "in" / name)
    until = time.monotonic() + 5.0
    found = []
    while name not in found and time.monotonic() < until:
        wake.wait(0.1)
        found += spool_watch.take_complete()
    return name in found


def test_a_watch_that_lives_is_left_alone(tmp_path, spool_watch, wake):
    assert spool_watch.ensure_alive()
    assert arrives(tmp_path, "a", spool_watch, wake)
    assert spool_watch.ensure_alive()


def test_a_file_moved_in_from_elsewhere_is_told(tmp_path, wake):
    (tmp_path / "spool" / "in").mkdir(parents=True)
    spool_watch = SpoolWatch(tmp_path / "spool", wake)
    spool_watch.start()
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").rename(tmp_path / "spool" / "in" / "a")
    until = time.monotonic() + 5.0
    found = []
    while "a" not in found and time.monotonic() < until:
        wake.wait(0.1)
        found += spool_watch.take_complete()
    spool_watch.stop()
    assert found == ["a"]


def die(*_, **__):
    raise RuntimeError("this thread was told to die")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("thread", ["dispatcher", "emitter", "reader"])
def test_each_of_its_threads_may_die(tmp_path, spool_watch, wake, thread, monkeypatch):
    observer = spool_watch._observer
    victim, method = {
        "dispatcher": (observer, "dispatch_events"),
        "emitter": (next(iter(observer.emitters)), "queue_events"),
        "reader": (getattr(observer, "_inotify_fd", None), "handle_event"),
    }[thread]
    if victim is None:
        pytest.skip("watchdog 6 has no such thread")
    monkeypatch.setattr(victim, method, die)
    for name in ("b", "c"):  # an emitter that waits for an event dies at the one after
        (tmp_path / "in" / name).write_text("x")
        victim.join(timeout=2.0)
    assert not victim.is_alive()
    assert not spool_watch.ensure_alive()
    assert spool_watch.ensure_alive()
    assert arrives(tmp_path, "d", spool_watch, wake)


def test_an_inbox_that_was_made_again_is_watched(tmp_path, spool_watch, wake):
    shutil.rmtree(tmp_path / "in")
    spool_watch.ensure_alive()
    (tmp_path / "in").mkdir()
    assert not spool_watch.ensure_alive()
    assert arrives(tmp_path, "a", spool_watch, wake)


def test_where_nothing_can_be_watched_the_rescan_goes_on_and_it_is_tried_again(tmp_path, wake, monkeypatch):
    spool_watch = SpoolWatch(tmp_path / "gone", wake)
    spool_watch.start()
    assert spool_watch.ensure_alive()  # not tried again at every round
    monkeypatch.setattr(watch, "RETRY_S", 0.0)
    spool_watch.start()
    assert not spool_watch.ensure_alive()
    (tmp_path / "gone" / "in").mkdir(parents=True)
    assert not spool_watch.ensure_alive()
    assert spool_watch.ensure_alive()
    assert arrives(tmp_path / "gone", "a", spool_watch, wake)
    spool_watch.stop()
