import time
import uuid

from experience import ids
from experience.ids import uuid7, uuid7_time_s


def test_is_a_version_7_uuid_that_holds_its_time():
    made = uuid.UUID(uuid7(1_700_000_000.5))
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == 1_700_000_000_500


def test_ascends_strictly_and_never_repeats():
    made = [uuid7() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_ascends_while_the_clock_is_corrected(monkeypatch):
    before = uuid7()
    real = time.time_ns
    monkeypatch.setattr(ids.time, "time_ns", lambda: real() - 10**9 // 2)
    made = [before, *(uuid7() for _ in range(100))]
    assert made == sorted(set(made))


def test_follows_a_clock_that_is_set_back(monkeypatch):
    uuid7()
    real = time.time_ns
    monkeypatch.setattr(ids.time, "time_ns", lambda: real() - 7200 * 10**9)
    made = [uuid7() for _ in range(100)]
    assert abs(uuid7_time_s(made[-1]) - (time.time() - 7200)) < 60
    assert made == sorted(set(made))
    monkeypatch.undo()
    assert abs(uuid7_time_s(uuid7()) - time.time()) < 60


def test_same_time_gives_another_id():
    assert uuid7(1.0) != uuid7(1.0)


def test_gives_its_time_back():
    for now_s in (0.0, 1.0, 1_700_000_000.123456, 9_999_999_999.9):
        assert abs(uuid7_time_s(uuid7(now_s)) - now_s) < 1e-6
    assert abs(uuid7_time_s(uuid7()) - time.time()) < 60
