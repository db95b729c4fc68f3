import os

import pytest

from policies.retention import Policy, Stored, choose, measure

NOW_S = 10_000_000.0


def stored(*versions, size=10, age_s=100_000.0):
    return [Stored(version=version, size_bytes=size, written_s=NOW_S - age_s) for version in versions]


def chosen(items, *, protected=(), spared=(), **changes):
    keep = {"keep_last": 0, "keep_every": 0, "keep_minutes": 10.0, "keep_bytes": 10**9} | changes
    return choose(items, Policy(**keep), protected=protected, spared=spared, now_s=NOW_S)


@pytest.mark.parametrize(
    ("changes", "removed"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"keep_last": 2}, [1, 2, 3, 4]),
        ({"keep_last": 99}, []),
        ({"keep_every": 3}, [1, 2, 4, 5]),
        ({"spared": {2}}, [1, 3, 4, 5, 6]),
        ({"protected": {1, 6}}, [2, 3, 4, 5]),
        ({"keep_minutes": 1e6}, []),
        ({"keep_last": 6, "keep_bytes": 35}, [1, 2, 3]),
        ({"keep_last": 4, "keep_bytes": 30}, [1, 2, 3]),
        ({"keep_last": 6, "keep_bytes": 0, "protected": {5, 6}}, [1, 2, 3, 4]),
        ({"keep_last": 6, "keep_bytes": 25, "spared": {1}, "protected": {6}}, [2, 3, 4, 5]),
        ({"keep_last": 6, "keep_bytes": 15, "spared": {1}, "protected": {6}}, [1, 2, 3, 4, 5]),
        ({"keep_minutes": 1e6, "keep_bytes": 30}, [1, 2, 3]),
    ],
)
def test_what_goes(changes, removed):
    assert chosen(stored(1, 2, 3, 4, 5, 6), **changes) == removed


@pytest.mark.parametrize("keep_last", range(9))
def test_as_many_as_asked_for_stay_however_few_there_are(keep_last):
    assert chosen(stored(1, 2, 3, 4, 5, 6), keep_last=keep_last) == list(range(1, 7 - keep_last))


def test_a_version_from_the_future_is_young():
    assert chosen(stored(1, age_s=-5000.0)) == []


def test_measure_adds_up_files_and_sees_what_is_gone(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "manifest.json").write_bytes(b"123")
    os.utime(tmp_path / "manifest.json", (7.0, 9.0))
    assert measure(tmp_path, 7).size_bytes == 8
    assert measure(tmp_path, 7).version == 7
    assert measure(tmp_path, 7).written_s == 9.0
    assert measure(tmp_path / "gone", 7) is None


def at(**written_s):
    return [
        Stored(version=int(name[1:]), size_bytes=10, written_s=NOW_S + when)
        for name, when in written_s.items()
    ]


def test_a_clock_that_was_set_back_keeps_nothing_longer():
    before = {f"v{i}": 20_000.0 + 10.0 * i for i in range(1, 51)}
    after = {f"v{i}": 10.0 * (i - 100) for i in range(51, 101)}
    assert chosen(at(**before, **after)) == list(range(1, 40))


def test_a_clock_that_was_set_ahead_makes_no_version_old():
    assert chosen(at(v1=-21_630.0, v2=-21_620.0, v3=-21_610.0, v4=0.0)) == []


def test_a_clock_that_differs_from_the_file_systems_keeps_nothing_longer():
    assert chosen(at(**{f"v{i}": 50_000.0 + 10.0 * i for i in range(1, 101)})) == list(range(1, 41))


def test_what_is_published_seldom_is_kept_ten_times_at_most():
    assert chosen(at(**{f"v{i}": 3600.0 * (i - 30) for i in range(1, 31)})) == list(range(1, 21))


def test_all_of_it_is_old_when_nothing_came_for_long():
    assert chosen(at(v1=-3630.0, v2=-3620.0, v3=-3600.0)) == [1, 2, 3]
