from experience.claims import Waiting
from learnerd.settle import Settling


def file(name, size=10, mtime=1000.0):
    return Waiting(name=name, size_bytes=size, mtime_s=mtime)


def names(settling, files, *, wall, mono, complete=()):
    return [f.name for f in settling.ready(files, complete=complete, wall_s=wall, monotonic_s=mono)]


def test_an_old_file_is_finished_at_first_sight():
    assert names(Settling(2.0), [file("a")], wall=1002.0, mono=0.0) == ["a"]


def test_a_closed_file_is_finished_at_once():
    assert names(Settling(2.0), [file("a"), file("b")], wall=1000.0, mono=0.0, complete={"b"}) == ["b"]


def test_a_file_whose_clock_is_ahead_settles_by_the_monotonic_clock():
    settling = Settling(2.0)
    ahead = [file("a", mtime=9999.0)]
    assert names(settling, ahead, wall=1000.0, mono=0.0) == []
    assert settling.unsettled == 1
    assert names(settling, ahead, wall=1001.0, mono=1.9) == []
    assert names(settling, ahead, wall=1002.0, mono=2.0) == ["a"]
    assert settling.unsettled == 0


def test_growth_starts_the_wait_again():
    settling = Settling(2.0)
    assert names(settling, [file("a", size=1, mtime=1000.0)], wall=1000.0, mono=0.0) == []
    assert names(settling, [file("a", size=2, mtime=1001.5)], wall=1001.5, mono=1.5) == []
    assert names(settling, [file("a", size=2, mtime=1001.5)], wall=1003.0, mono=3.0) == []
    assert names(settling, [file("a", size=2, mtime=1001.5)], wall=1003.5, mono=3.5) == ["a"]


def test_what_left_is_forgotten():
    settling = Settling(2.0)
    names(settling, [file("a")], wall=1000.0, mono=0.0)
    assert names(settling, [], wall=1001.0, mono=1.0) == []
    assert settling.unsettled == 0
